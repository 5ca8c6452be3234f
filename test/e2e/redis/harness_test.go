// Package redis runs the store of package redisstore against the real thing:
// Redis alone, with TLS and an ACL, watched by Sentinels, and as a cluster;
// killed, frozen and restarted.
package redis

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/store/storetest"
)

// all is what the store in Redis can do.
type all interface {
	store.Cached
	store.Locker
}

// open provisions a module, and gives its store. Modules with the same
// configuration share a client, as they do in Caddy; whoever wants another one,
// like another replica, writes the configuration in another way.
func open(t *testing.T, module redisstore.Sessions) all {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := module.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := module.Cleanup(); err != nil {
			t.Error(err)
		}
	})
	made, err := module.Store()
	if err != nil {
		t.Fatal(err)
	}
	return made.(all)
}

// conforms holds a store to the contract, with two replicas.
func conforms(t *testing.T, one, other redisstore.Sessions) {
	t.Helper()
	storetest.Run(t, func(t *testing.T) store.Store { return open(t, one) },
		storetest.SecondHandle(func(t *testing.T, _ store.Store) store.Store { return open(t, other) }))
}

// server is a Redis, or a Sentinel, that a test started, and ends.
type server struct {
	t    *testing.T
	dir  string
	port string
	args []string
	cli  []string // what redis-cli needs to reach it
	cmd  *exec.Cmd
}

// freePorts are ports that nobody has now. With offset, the port so much above
// each is free as well: that of a cluster's bus.
func freePorts(t *testing.T, count, offset int) []string {
	t.Helper()
	var ports []string
	var held []net.Listener
	defer func() {
		for _, l := range held {
			_ = l.Close()
		}
	}()
	for len(ports) < count {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
		port := l.Addr().(*net.TCPAddr).Port
		if port+offset > 65535 {
			continue
		}
		if offset > 0 {
			bus, err := net.Listen("tcp", "127.0.0.1:"+strconv.Itoa(port+offset))
			if err != nil {
				continue
			}
			held = append(held, bus)
		}
		ports = append(ports, strconv.Itoa(port))
	}
	return ports
}

// newServer starts a Redis on a port that the kernel chose.
func newServer(t *testing.T, args ...string) *server {
	t.Helper()
	port := freePorts(t, 1, 0)[0]
	return startServer(t, port, append([]string{"--port", port}, args...), "-p", port)
}

func startServer(t *testing.T, port string, args []string, cli ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), port: port, cli: cli}
	s.args = append([]string{"--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", s.dir}, args...)
	s.start()
	t.Cleanup(s.kill)
	return s
}

// start starts the program, again if it was killed, and waits until it answers.
func (s *server) start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	s.cmd = exec.Command("redis-server", s.args...)
	s.cmd.Dir = s.dir
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatalf("%v: `make setup` installs what the tests need", err)
	}
	within(s.t, 10*time.Second, "redis-server answers", func() bool {
		out, _ := s.try("PING")
		return strings.TrimSpace(out) == "PONG"
	})
}

func (s *server) kill() {
	if s.cmd.ProcessState == nil {
		_ = s.cmd.Process.Kill()
		_ = s.cmd.Wait()
	}
}

// freeze has the process stop in the middle of whatever it does.
func (s *server) freeze() { _ = s.cmd.Process.Signal(syscall.SIGSTOP) }
func (s *server) thaw()   { _ = s.cmd.Process.Signal(syscall.SIGCONT) }

func (s *server) address() string { return "127.0.0.1:" + s.port }

// try runs a command at the server.
func (s *server) try(command ...string) (string, error) {
	out, err := exec.Command("redis-cli", append(append([]string{"--raw"}, s.cli...), command...)...).CombinedOutput()
	return string(bytes.TrimSpace(out)), err
}

func (s *server) do(command ...string) string {
	s.t.Helper()
	out, err := s.try(command...)
	if err != nil {
		s.t.Fatalf("redis-cli %s: %v\n%s", command, err, out)
	}
	return out
}

// calls is how often a command was called.
func (s *server) calls(command string) int {
	s.t.Helper()
	for line := range strings.Lines(s.do("INFO", "commandstats")) {
		if rest, ok := strings.CutPrefix(line, "cmdstat_"+command+":calls="); ok {
			count, _, _ := strings.Cut(rest, ",")
			n, err := strconv.Atoi(count)
			if err != nil {
				s.t.Fatal(err)
			}
			return n
		}
	}
	return 0
}

// within waits until something is so.
func within(t *testing.T, limit time.Duration, what string, so func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > limit {
			t.Fatalf("in vain waited %s until %s", limit, what)
		}
		time.Sleep(2 * time.Millisecond)
	}
	return time.Since(began)
}

// keys counts up: keys as good as random are not needed here.
var lastKey = 0

func newKey() string {
	lastKey++
	return fmt.Sprintf("key-%d", lastKey)
}

// save saves a record, or ends the test.
func save(t *testing.T, s store.Store, key string, version uint64, indexes ...string) {
	t.Helper()
	if err := s.Save(t.Context(), key, record(version, indexes...)); err != nil {
		t.Fatal(err)
	}
}

func record(version uint64, indexes ...string) store.Record {
	return store.Record{Value: fmt.Appendf(nil, "value %d\n\x00\xff", version), Version: version, Expires: time.Now().Add(time.Hour), Indexes: indexes}
}

// loads ends the test if a record is not of the version.
func loads(t *testing.T, load func(context.Context, string) (store.Record, error), key string, version uint64) {
	t.Helper()
	got, err := load(t.Context(), key)
	if err != nil || got.Version != version || !bytes.Equal(got.Value, record(version).Value) {
		t.Fatalf("loading gave version %d, %v, want %d", got.Version, err, version)
	}
}
