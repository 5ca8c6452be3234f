package flows

import (
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// processConfig names the configuration that this program is to run as Caddy,
// in place of the tests.
const processConfig = "PKCE_AUTH_TEST_CONFIG"

func TestMain(m *testing.M) {
	file := os.Getenv(processConfig)
	if file == "" {
		os.Exit(m.Run())
	}
	config, err := os.ReadFile(file)
	if err == nil {
		caddy.TrapSignals()
		err = caddy.Load(config, true)
	}
	if err != nil {
		panic(err)
	}
	select {}
}

// process starts a Caddy that is a process of its own, with the directives
// given. stop has it shut down, and waits until it has.
func (w *world) process(directives string) (terminate, wait func()) {
	w.t.Helper()
	if w.site == "" {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			w.t.Fatal(err)
		}
		w.site = "http://" + listener.Addr().String()
		listener.Close()
	}
	config, err := w.adapt(w.file(w.site, directives))
	if err != nil {
		w.t.Fatal(err)
	}
	file := filepath.Join(w.dir, "config.json")
	writeFile(w.t, file, string(config))
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), processConfig+"="+file)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	w.t.Cleanup(func() { _ = cmd.Process.Kill() })
	w.eventually("the process listens", func() bool {
		conn, err := net.Dial("tcp", w.site[len("http://"):])
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
	return func() { _ = cmd.Process.Signal(syscall.SIGTERM) }, func() {
		w.t.Helper()
		select {
		case err := <-ended:
			if err != nil {
				w.t.Errorf("the process: %v", err)
			}
		case <-time.After(30 * time.Second):
			w.t.Fatal("the process does not end")
		}
	}
}

// T9, promise 3: SIGTERM while a refresh is under way that no request waits for:
// the provider has spent the old refresh token, so the new one is kept before
// the process ends.
func TestT9Promise3SIGTERMKeepsARefresh(t *testing.T) {
	w := newWorld(t)
	w.store = "storage"
	terminate, wait := w.process(basic)
	b := w.browser()
	w.dueSoon(b)
	spent, release := make(chan struct{}), make(chan struct{})
	w.op.Misbehave(provider.Faults{RefreshResponse: func(map[string]any) {
		close(spent)
		<-release
	}})
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK {
		t.Errorf("got status %d", a.StatusCode)
	}
	<-spent
	terminate()
	time.Sleep(500 * time.Millisecond) // it would have ended long since
	close(release)
	wait()
	w.op.Misbehave(provider.Faults{})
	terminate, wait = w.process(basic)
	time.Sleep(time.Second) // the first token is over
	if a := b.fetch(w.site + "/x"); a.StatusCode != http.StatusOK || len(w.refreshes()) != 1 {
		t.Errorf("after a restart: got status %d after %d refreshes", a.StatusCode, len(w.refreshes()))
	}
	terminate()
	wait()
}
