package main

import (
	"context"
	"debug/buildinfo"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// The binaries, as packages.
const (
	bareCaddy = "github.com/pkce-auth/caddy-pkce-auth/test/bench/barecaddy"
	ourCaddy  = "github.com/pkce-auth/caddy-pkce-auth/cmd/caddy"
)

// proxy is a Caddy that the bench has started, or another program that stands
// in front of the upstream.
type proxy struct {
	*process
	site   string       // its origin
	admin  *http.Client // of its admin endpoint, which is not in its way; nil: it has none
	behind *process     // another program that has a part in each request; nil: there is none
}

// cpu is what the proxy has spent so far, with what is behind it.
func (p *proxy) cpu() (time.Duration, error) {
	spent, err := p.process.cpu()
	if err != nil || p.behind == nil {
		return spent, err
	}
	more, err := p.behind.cpu()
	return spent + more, err
}

// global are the options of every Caddyfile. The errors go to the process's log.
const global = `{
	admin unix/%[1]s
	persist_config off
	auto_https off
	storage file_system %[2]q
	log {
		output stderr
		level ERROR
	}
	%[3]s
}

%[4]s {
	bind 127.0.0.1
	%[5]s
}
`

// toUpstream keeps as many connections as the load generator has: by default
// Caddy keeps 32, and beyond it would be dialling that is measured.
const toUpstream = `
	reverse_proxy $UPSTREAM {
		transport http {
			keepalive_idle_conns_per_host 512
		}
	}
`

// caddy starts a Caddy of a package that is built first, with one site that has
// the directives; further global options come before a line "---". $OP, $UPSTREAM
// and $REDIS stand for the addresses of these.
func (b *bench) caddy(pkg, directives string) (*proxy, error) {
	binary, err := b.build(pkg)
	if err != nil {
		return nil, err
	}
	return b.caddyAt(binary, directives)
}

func (b *bench) caddyAt(binary, directives string) (*proxy, error) {
	addr, err := freeAddress()
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(b.dir, "caddy-")
	if err != nil {
		return nil, err
	}
	directives = strings.NewReplacer("$OP", b.op.URL, "$UPSTREAM", b.upstream.addr, "$REDIS", b.last.redis).Replace(directives)
	options, directives, divided := strings.Cut(directives, "\n---\n")
	if !divided {
		options, directives = "", options
	}
	site, socket := "http://"+addr, filepath.Join(dir, "admin")
	file := filepath.Join(dir, "Caddyfile")
	text := fmt.Sprintf(global, socket, filepath.Join(dir, "storage"), options, site, directives)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := b.start(addr, binary, "run", "--config", file, "--adapter", "caddyfile")
	if err != nil {
		return nil, err
	}
	admin := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	b.onClose(admin.CloseIdleConnections)
	return &proxy{process: p, site: site, admin: admin}, nil
}

// build builds a package once, and returns the binary's name.
func (b *bench) build(pkg string) (string, error) {
	if name, ok := b.binaries[pkg]; ok {
		return name, nil
	}
	goCommand := os.Getenv("GO")
	if goCommand == "" {
		goCommand = "go"
	}
	b.logf("building %s", pkg)
	name := b.file(fmt.Sprintf("caddy-%d", len(b.binaries)))
	cmd := exec.CommandContext(b.ctx, goCommand, "build", "-ldflags", "-s -w", "-o", name, pkg)
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s: %w: %s", pkg, err, out)
	}
	b.binaries[pkg] = name
	b.report.Machine.Caddy = caddyVersion(name)
	return name, nil
}

// caddyVersion is the one that a binary was built with: the same in all that are
// built here.
func caddyVersion(binary string) string {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return "unknown"
	}
	for _, dep := range info.Deps {
		if dep.Path == "github.com/caddyserver/caddy/v2" {
			return dep.Version
		}
	}
	return "unknown"
}
