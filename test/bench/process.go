package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a program that the bench has started. It ends with the bench,
// however that ends.
type process struct {
	pid    int
	addr   string        // where it listens
	took   time.Duration // from its start to its first accepted connection
	log    string        // the file with what it wrote
	cmd    *exec.Cmd
	ended  chan struct{}
	finish sync.Once
}

// start starts a program that will listen on addr, and waits until it does.
func (b *bench) start(addr, name string, args ...string) (*process, error) {
	log, err := os.CreateTemp(b.dir, "log-")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = b.dir, log, log
	cmd.Env = append(os.Environ(), "HOME="+b.dir, "XDG_CONFIG_HOME="+b.dir, "XDG_DATA_HOME="+b.dir)
	cmd.SysProcAttr = endsWithUs()
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	p := &process{pid: cmd.Process.Pid, addr: addr, log: log.Name(), cmd: cmd, ended: make(chan struct{})}
	go func() {
		_ = cmd.Wait()
		close(p.ended)
	}()
	b.onClose(p.stop)
	if err := p.listens(b); err != nil {
		return nil, err
	}
	p.took = time.Since(began)
	return p, nil
}

func (p *process) listens(b *bench) error {
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-p.ended:
			return fmt.Errorf("%s ended by itself: %s", filepath.Base(p.cmd.Path), p.lastWords())
		default:
		}
		conn, err := net.Dial("tcp", p.addr)
		if err == nil {
			return conn.Close()
		}
	}
	return fmt.Errorf("%s does not listen: %s", filepath.Base(p.cmd.Path), p.lastWords())
}

// lastWords is the last line that the process wrote, without the names of our
// files.
func (p *process) lastWords() string {
	text, _ := os.ReadFile(p.log)
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.ReplaceAll(lines[len(lines)-1], filepath.Dir(p.log), "…")
}

// stop ends the process: politely at first. Stopping it twice does no harm.
func (p *process) stop() {
	p.finish.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.ended:
		case <-time.After(5 * time.Second):
			_ = p.cmd.Process.Kill()
			<-p.ended
		}
	})
}

// freeAddress is one on loopback whose port the kernel chose. It is free until
// something else asks the kernel, which goes round before it gives it out again.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return listener.Addr().String(), listener.Close()
}

var errNoRedis = errors.New("redis-server is not installed: `make setup` does that")

// startRedis gives the address of a Redis that keeps nothing on disk, or
// errNoRedis. It is started once, and lasts as long as the bench.
func (b *bench) startRedis() (string, error) {
	if b.last.redis != "" || b.last.redisErr != nil {
		return b.last.redis, b.last.redisErr
	}
	name, err := exec.LookPath("redis-server")
	if err != nil {
		b.last.redisErr = errNoRedis
		return "", b.last.redisErr
	}
	addr, err := freeAddress()
	if err != nil {
		return "", err
	}
	_, port, _ := net.SplitHostPort(addr)
	b.last.redisErr = b.lasting(func() error {
		_, err := b.start(addr, name, "--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", b.dir)
		return err
	})
	b.last.redis = addr
	return b.last.redis, b.last.redisErr
}
