package replicas

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// kind is where sessions are kept, and how many replicas there are.
type kind struct {
	store    string
	replicas int
}

func (k kind) String() string { return fmt.Sprintf("%s × %d", k.store, k.replicas) }

func named(k kind) string { return fmt.Sprintf("%s_%d", k.store, k.replicas) }

var (
	redisThree   = kind{"redis", 3}
	storageThree = kind{"storage", 3}
	cookieThree  = kind{"cookie", 3}
	cookieOne    = kind{"cookie", 1}
	memoryOne    = kind{"memory", 1}

	// shared are those whose replicas know of each other whatever there is to
	// know; promising are those that keep every promise.
	shared    = []kind{redisThree, storageThree}
	promising = []kind{redisThree, storageThree, cookieOne, memoryOne}
)

// The secrets of cookies, the old one and the new one.
const (
	secretA = "c390b938048cdc4ca8fc301895c02db61bf9ffc7ae9041d56fac858dbf344efb"
	secretB = "70fb5ffbc4af2a829260e1ad91e217e83cd9d92fea529a037a6d5e5caa069681"
)

// setup is a world to be made. The zero value of all but kind is useful.
type setup struct {
	kind
	secrets string // of cookies; "generated" for none
	session string // further options of the session
	options string // further options of pkce_auth
}

// world is everything that takes part.
type world struct {
	t        *testing.T
	setup    setup
	dir      string
	op       *provider.Provider
	upstream *upstream
	redis    *redisServer // nil without

	mu       sync.Mutex
	replicas []*replica // one may join
	broken   []string   // requests whose connections broke before the answer
}

// unbroken ends the test if a request whose connection broke had got through to
// a replica. Others may break when Caddy changes its configuration, or ends: it
// closes a listener, and the kernel resets what waits there. That is neither
// ours, nor is anything lost by sending it again. It returns how many there
// were.
func (w *world) unbroken() int {
	w.t.Helper()
	w.mu.Lock()
	broken := slices.Clone(w.broken)
	w.mu.Unlock()
	time.Sleep(200 * time.Millisecond) // the log is written after the answer
	for _, r := range w.all() {
		log, err := os.ReadFile(r.log)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, request := range broken {
			if i := bytes.Index(log, []byte(`"X-Request":["`+request+`"]`)); i >= 0 {
				w.t.Errorf("a request was cut that had reached replica %d: …%s", r.number, log[max(0, i-300):min(len(log), i+600)])
			}
		}
	}
	return len(broken)
}

// all are the replicas.
func (w *world) all() []*replica {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.replicas
}

// joins starts one more replica, and gives it to browsers once it is up.
func (w *world) joins() {
	w.t.Helper()
	r := w.newReplica(len(w.all()))
	r.isUp()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.replicas = append(slices.Clone(w.replicas), r)
}

func newWorld(t *testing.T, s setup) *world {
	t.Helper()
	op, err := provider.Start(provider.Config{Users: map[string]map[string]any{"alice": {}, "bob": {}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = op.Close() })
	dir, err := os.MkdirTemp("", "e2e-") // short: sockets are in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, setup: s, dir: dir, op: op, upstream: newUpstream(t)}
	if err := os.Mkdir(filepath.Join(dir, "disk"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.mount("disk")
	if s.store == "redis" {
		w.redis = newRedis(t)
	}
	for i := range s.replicas {
		w.replicas = append(w.replicas, w.newReplica(i))
	}
	for _, r := range w.replicas {
		r.isUp()
	}
	t.Cleanup(w.keptItsSecrets)
	return w
}

// keptItsSecrets is promise 2, after each test: no code, token or cookie stands
// in a log of debug level. Nor has any handler panicked.
func (w *world) keptItsSecrets() {
	issued := w.op.Issued()
	for _, r := range w.replicas {
		r.process.signal(syscall.SIGTERM)
	}
	for _, r := range w.replicas {
		r.process.kill()
		log, err := os.ReadFile(r.log)
		if err != nil {
			w.t.Error(err)
		}
		if i := bytes.Index(log, []byte("panic")); i >= 0 {
			w.t.Errorf("replica %d panicked: %.2000s", r.number, log[i:])
		}
		for _, secret := range issued {
			if i := bytes.Index(log, []byte(secret)); i >= 0 {
				w.t.Errorf("the log holds a secret: …%s…", log[max(0, i-300):min(len(log), i+len(secret)+100)])
				break
			}
		}
		if w.t.Failed() {
			w.t.Logf("replica %d logged at last:\n%s", r.number, interesting(log))
		}
	}
}

// interesting is what we have said in a log, beside what each request leaves
// there, and what went wrong.
func interesting(log []byte) string {
	var kept []string
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"logger":"http.handlers.pkce_auth"`) && !strings.Contains(line, `"level":"debug"`) && !strings.Contains(line, "login started") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept[max(0, len(kept)-20):], "")
}

// replica is one Caddy.
type replica struct {
	w       *world
	number  int
	port    string
	dir     string
	log     string
	process *process
	direct  *http.Transport // to it, and nowhere else
	admin   *http.Client
}

// newReplica starts a replica, and does not wait for it.
func (w *world) newReplica(number int) *replica {
	w.t.Helper()
	r := &replica{w: w, number: number, port: freePort(w.t), dir: filepath.Join(w.dir, fmt.Sprint(number))}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		w.t.Fatal(err)
	}
	r.log = filepath.Join(r.dir, "log")
	dial := func(network, address string) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	}
	r.direct = &http.Transport{DialContext: dial("tcp", r.address()), MaxIdleConnsPerHost: 300, DisableCompression: true}
	r.admin = &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial("unix", r.socket()), DisableKeepAlives: true}}
	w.t.Cleanup(r.direct.CloseIdleConnections)
	r.start()
	return r
}

func (r *replica) address() string { return "127.0.0.1:" + r.port }
func (r *replica) socket() string  { return filepath.Join(r.dir, "admin.sock") }

// start starts the process, or starts it again.
func (r *replica) start() {
	r.w.t.Helper()
	caddyfile := filepath.Join(r.dir, "Caddyfile")
	if err := os.WriteFile(caddyfile, []byte(r.caddyfile(r.w.setup.secrets)), 0o600); err != nil {
		r.w.t.Fatal(err)
	}
	_ = os.Remove(r.socket()) // that of one that was killed
	env := []string{"HOME=" + r.dir, "XDG_DATA_HOME=" + r.dir, "XDG_CONFIG_HOME=" + r.dir}
	r.process = start(r.w.t, r.log, env, caddyBinary, "run", "--config", caddyfile, "--adapter", "caddyfile")
}

// isUp waits until the replica serves.
func (r *replica) isUp() {
	r.w.t.Helper()
	within(r.w.t, 30*time.Second, fmt.Sprintf("replica %d is up", r.number), func() bool {
		select {
		case <-r.process.ended:
			log, _ := os.ReadFile(r.log)
			r.w.t.Fatalf("replica %d has ended: %s", r.number, log)
		default:
		}
		conn, err := net.Dial("tcp", r.address())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

func (r *replica) caddyfile(secrets string) string {
	secret := ""
	if secrets == "" {
		secrets = secretA
	}
	if secrets != "generated" {
		secret = "cookie_secret " + secrets
	}
	kept := r.w.setup.store + " {\n" + r.w.setup.session + "\n"
	if r.w.redis != nil {
		kept += "address " + r.w.redis.address() + "\n"
	}
	return fmt.Sprintf(`{
	admin unix/%s
	persist_config off
	auto_https off
	grace_period 15s
	storage file_system %q
	log {
		level DEBUG
		format json
	}
}

http://:%s {
	bind 127.0.0.1
	log
	pkce_auth {
		issuer %s
		client_id public
		%s
		session %s
		}
		%s
	}
	reverse_proxy %s {
		flush_interval -1
	}
}
`, r.socket(), r.w.storage(), r.port, r.w.op.URL, secret, kept, r.w.setup.options, r.w.upstream.address())
}

// storage is what the replicas share, whatever they keep there.
func (w *world) storage() string { return filepath.Join(w.dir, "storage") }

// mount has the storage be on something else from now on, without a moment
// between in which it is nowhere: that would be a storage without sessions.
func (w *world) mount(on string) {
	w.t.Helper()
	link := filepath.Join(w.dir, "link")
	if err := os.Symlink(on, link); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(link, w.storage()); err != nil {
		w.t.Fatal(err)
	}
}

// reload gives a replica another configuration, or the same once more.
func (r *replica) reload(secrets string) error {
	req, err := http.NewRequest(http.MethodPost, "http://127.0.0.1/load", strings.NewReader(r.caddyfile(secrets)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/caddyfile")
	req.Header.Set("Cache-Control", "must-revalidate") // also if it is the same
	resp, err := r.admin.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		return errors.New(string(said))
	}
	return nil
}

// redisServer is a Redis that keeps what it is given, whatever happens to it.
type redisServer struct {
	t       *testing.T
	port    string
	dir     string
	process *process
}

func newRedis(t *testing.T) *redisServer {
	t.Helper()
	s := &redisServer{t: t, port: freePort(t), dir: t.TempDir()}
	s.start()
	return s
}

func (s *redisServer) address() string { return "127.0.0.1:" + s.port }

func (s *redisServer) start() {
	s.t.Helper()
	s.process = start(s.t, filepath.Join(s.dir, "log"), nil, "redis-server", "--bind", "127.0.0.1", "--port", s.port, "--dir", s.dir,
		"--save", "", "--appendonly", "yes", "--appendfsync", "always")
	within(s.t, 10*time.Second, "redis-server answers", func() bool {
		conn, err := net.Dial("tcp", s.address())
		if err != nil {
			return false
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		fmt.Fprint(conn, "PING\r\n")
		pong := make([]byte, 5)
		_, err = io.ReadFull(conn, pong)
		return err == nil && string(pong) == "+PONG"
	})
}
