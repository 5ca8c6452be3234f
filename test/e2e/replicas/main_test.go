// Package replicas runs several Caddys at once, real processes that share
// their sessions or nothing, in front of one upstream and behind something
// that spreads requests over them: killed, reloaded, drained, and with a
// provider and a Redis that fail.
package replicas

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// caddyBinary is built once, for all tests.
var caddyBinary string

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "supervise" {
		os.Exit(supervise(os.Args[2:]))
	}
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "e2e-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		caddyBinary = filepath.Join(dir, "caddy")
		build := exec.Command("go", "build", "-o", caddyBinary, "./cmd/caddy")
		build.Dir = "../../.."
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "building Caddy: %v\n%s", err, out)
			return 1
		}
		flag.Parse()
		if err := flag.Set("test.parallel", "4"); err != nil { // they wait, most of the time
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		code := m.Run()
		fmt.Print(measured.markdown())
		return code
	}())
}

// supervise runs a program that knows nothing of us, and ends it when our
// standard input ends: with the test, however that ends. It says first which
// process it is.
func supervise(args []string) int {
	signal.Ignore(os.Interrupt)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(cmd.Process.Pid)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = cmd.Process.Kill()
	}()
	if err := cmd.Wait(); err != nil {
		return 1
	}
	return 0
}

// process is a program that a test started, and ends.
type process struct {
	pid   int
	stdin io.Closer
	ended chan struct{} // closed when it has
	clean bool          // whether it ended of its own will, and well; to be read after that
}

// start starts a program under supervision. What it prints goes to a file.
func start(t *testing.T, output string, env []string, name string, args ...string) *process {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(output, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(self, append([]string{"supervise", name}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stderr = log
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{stdin: stdin, ended: make(chan struct{})}
	said, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatalf("%s does not start, `make setup` installs what the tests need: %v", name, err)
	}
	if p.pid, err = strconv.Atoi(strings.TrimSpace(said)); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.clean = cmd.Wait() == nil
		close(p.ended)
	}()
	t.Cleanup(p.kill)
	return p
}

// signal sends a signal, if the program still runs.
func (p *process) signal(s syscall.Signal) {
	select {
	case <-p.ended:
	default:
		_ = syscall.Kill(p.pid, s)
	}
}

// kill ends it at once.
func (p *process) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
	_ = p.stdin.Close()
}

// freePort is a port that nobody has now.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// within waits until something is so, and says how long that took.
func within(t *testing.T, limit time.Duration, what string, so func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !so() {
		if time.Since(began) > limit {
			t.Fatalf("in vain waited %s until %s", limit, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began).Round(time.Millisecond)
}

// each runs a test for several things at once, as far as the machine allows.
func each[T any](t *testing.T, of []T, name func(T) string, run func(*testing.T, T)) {
	t.Parallel()
	for _, thing := range of {
		t.Run(name(thing), func(t *testing.T) {
			t.Parallel()
			run(t, thing)
		})
	}
}

// measured is what came of each scenario with each store, for the table that
// is printed at the end.
var measured table

type table struct {
	mu   sync.Mutex
	rows []row
}

// row is what one scenario cost.
type row struct {
	scenario, kind                 string
	grants, requests, failed, lost int
	note                           string
}

func (t *table) add(r row) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rows = append(t.rows, r)
}

func (t *table) markdown() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	slices.SortStableFunc(t.rows, func(a, b row) int { return strings.Compare(a.scenario, b.scenario) })
	var b strings.Builder
	b.WriteString("\n| scenario | sessions in | grants used | requests | failed | sessions lost | |\n|---|---|---|---|---|---|---|\n")
	for _, r := range t.rows {
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %d | %d | %s |\n", r.scenario, r.kind, r.grants, r.requests, r.failed, r.lost, r.note)
	}
	return b.String()
}
