package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// cpu is the CPU time that the process has spent so far, in user and in system
// mode. The scheduler counts it in nanoseconds for each thread; what
// /proc/<pid>/stat says comes in hundredths of a second.
func (p *process) cpu() (time.Duration, error) {
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", p.pid))
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, file := range files {
		text, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // Go ends a thread only when its goroutine ends in it
		}
		if err != nil {
			return 0, err
		}
		first, _, _ := bytes.Cut(text, []byte{' '})
		ns, err := strconv.ParseInt(string(first), 10, 64)
		if err != nil {
			return 0, err
		}
		sum += time.Duration(ns)
	}
	if sum == 0 {
		return 0, errors.New("the bench needs Linux's /proc/<pid>/task/*/schedstat")
	}
	return sum, nil
}

// memory is what a Go process says of its memory: the names are those of
// runtime.MemStats, where they are explained.
type memory struct {
	Mallocs, TotalAlloc, HeapAlloc, HeapInuse, HeapObjects, Sys, StackInuse, NumGC float64
}

// memory asks a Caddy's runtime, by its admin endpoint. That allocates some
// itself: allocations are counted over many requests. Others than Caddy have
// errNoAdmin.
func (p *proxy) memory() (memory, error) {
	var vars struct {
		Memory memory `json:"memstats"`
	}
	err := p.ask("/debug/vars", &vars)
	return vars.Memory, err
}

// collect has a Caddy's garbage collected.
func (p *proxy) collect() error { return p.ask("/debug/pprof/heap?gc=1", nil) }

var errNoAdmin = errors.New("it has no admin endpoint")

func (p *proxy) ask(path string, into any) error {
	if p.admin == nil {
		return errNoAdmin
	}
	resp, err := p.admin.Get("http://127.0.0.1" + path)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d", path, resp.StatusCode)
	}
	var buf bytes.Buffer
	if _, err := buf.ReadFrom(resp.Body); err != nil || into == nil {
		return err
	}
	return json.Unmarshal(buf.Bytes(), into)
}
