package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/test/provider"
)

// bench is what all scenarios share: the provider, the upstream, the binaries,
// what was started, and the report. It is used by one scenario at a time.
type bench struct {
	closers // of the running scenario

	ctx      context.Context
	opts     options
	began    time.Time
	dir      string // for everything that is written, gone at the end
	op       *provider.Provider
	granted  []string // see permissions
	upstream *upstream
	report   *report
	binaries map[string]string // what was built, by package
	last     lasting
}

// lasting is what is started once, when a scenario needs it first, and ends with
// the bench.
type lasting struct {
	closers

	fleet    *fleet
	crowds   []*crowd
	redis    string // its address
	redisErr error  // why there is none
	peers    []peer
	absent   map[string]error // which peers there are not, and why; nil: not looked
}

func newBench(ctx context.Context, opts options) (*bench, error) {
	dir, err := os.MkdirTemp("", "pkce-auth-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, opts: opts, dir: dir, binaries: map[string]string{}, began: time.Now()}
	b.last.onClose(func() { _ = os.RemoveAll(dir) })
	if err := b.lasting(b.prepare); err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) prepare() (err error) {
	if b.report, err = newReport(b.opts); err != nil {
		return err
	}
	if b.op, err = startProvider(); err != nil {
		return fmt.Errorf("starting the provider: %w", err)
	}
	b.onClose(func() { _ = b.op.Close() })
	if b.upstream, err = startUpstream(b.op.Issued); err != nil {
		return fmt.Errorf("starting the upstream: %w", err)
	}
	b.onClose(b.upstream.close)
	return nil
}

func (b *bench) close() {
	b.closers.close()
	b.last.close()
}

// during runs a scenario, or part of one, and ends what that has started.
func (b *bench) during(part func() error) error {
	outer := b.closers
	b.closers = nil
	defer func() {
		b.closers.close()
		b.closers = outer
	}()
	return part()
}

// lasting runs what starts something that lasts as long as the bench, though it is
// a scenario that needs it first.
func (b *bench) lasting(start func() error) error {
	inner := b.closers
	b.closers = nil
	defer func() {
		b.last.closers = append(b.last.closers, b.closers...)
		b.closers = inner
	}()
	return start()
}

// file is the name of a file in the bench's own directory.
func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// logf tells who waits how far it is.
func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.1fs  "+format+"\n", append([]any{time.Since(b.began).Seconds()}, args...)...)
}

// closers end things: the last comes first.
type closers []func()

func (c *closers) onClose(end func()) { *c = append(*c, end) }

func (c *closers) close() {
	for len(*c) > 0 {
		last := (*c)[len(*c)-1]
		*c = (*c)[:len(*c)-1]
		last()
	}
}
