// Command demo shows the whole main job on this machine, with nothing to
// configure: an OpenID Provider with a login form, a sample application that
// knows nothing of OAuth, and Caddy with pkce_auth in front of it. All three
// listen on loopback, on ports that the kernel chooses, and end with Ctrl-C.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth"
	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

// site is the Caddyfile of the demo. What a real one needs is the two lines
// in the middle: the issuer and the client ID.
const site = `{
	admin off
	persist_config off
	auto_https off
	storage file_system %[1]q
	log {
		level ERROR
	}
}

http://localhost:0, http://127.0.0.1:0 {
	bind 127.0.0.1
	pkce_auth {
		issuer %[2]s
		client_id demo
		scopes openid profile email read:orders
		audience https://api.example.com
		bypass /public
		header_up X-Auth-Name {http.auth.user.name}
		header_up X-Auth-Groups {http.auth.user.groups}
	}
	reverse_proxy %[3]s
}
`

// run starts the three, says where to look, and ends them with ctx.
func run(ctx context.Context, out io.Writer) error {
	op, err := provider.Start(provider.Config{LoginForm: true, Clients: map[string]provider.Client{"demo": {}}, Users: users})
	if err != nil {
		return fmt.Errorf("starting the provider: %w", err)
	}
	defer op.Close()
	app, err := startApp()
	if err != nil {
		return fmt.Errorf("starting the sample application: %w", err)
	}
	defer app.Close()
	dir, err := os.MkdirTemp("", "pkce-auth-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	url, err := startCaddy(fmt.Sprintf(site, filepath.Join(dir, "storage"), op.URL, app.Addr))
	if err != nil {
		return fmt.Errorf("starting Caddy: %w", err)
	}
	fmt.Fprintf(out, `
The demo is running:

  Caddy with pkce_auth   %s   <- open this in a browser
  OpenID Provider        %s   (log in as alice or bob, with any password)
  sample application     http://%s   (what it is asked directly, it refuses)

Ctrl-C ends it.
`, url, op.URL, app.Addr)
	<-ctx.Done()
	fmt.Fprintln(out, "\nending the demo")
	return caddy.Stop()
}

var users = map[string]map[string]any{
	"alice": {"name": "Alice Ash", "email": "alice@example.com", "email_verified": true, "groups": []string{"staff", "admin"}},
	"bob":   {"name": "Bob Birch", "email": "bob@example.com", "email_verified": true, "groups": []string{"staff"}},
}

// startCaddy loads the Caddyfile and returns the address of its site.
func startCaddy(caddyfile string) (string, error) {
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		return "", err
	}
	if err := caddy.Load(config, true); err != nil {
		return "", err
	}
	module, err := caddy.ActiveContext().App("http")
	if err != nil {
		return "", err
	}
	for _, server := range module.(*caddyhttp.App).Servers {
		for _, listener := range server.Listeners() {
			_, port, err := net.SplitHostPort(listener.Addr().String())
			return "http://localhost:" + port + "/", err
		}
	}
	return "", errors.New("it listens nowhere")
}

// startApp starts the sample application. An application behind pkce_auth
// need not know of it, but must not be reachable past it: this one answers
// only requests that come with a token, or to its public page.
func startApp() (*http.Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	server := &http.Server{Addr: listener.Addr().String(), Handler: http.HandlerFunc(serveApp), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(listener) }()
	return server, nil
}

func serveApp(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok && r.URL.Path != "/public" {
		http.Error(w, "This came past Caddy: there is no access token.", http.StatusForbidden)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = page.Execute(w, describe(r, token))
}
