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
// and the report. It is used by one scenario at a time.
type bench struct {
	ctx      context.Context
	opts     options
	dir      string // for everything that is written, gone at the end
	op       *provider.Provider
	upstream *upstream
	report   *report
	binaries map[string]string // what was built, by package
	ships    *fleet
	redis    string // the address of the running one
	redisErr error  // why there is none

	closers   []func() // of the running scenario
	outermost []func() // of the bench
	began     time.Time
}

func newBench(ctx context.Context, opts options) (*bench, error) {
	dir, err := os.MkdirTemp("", "pkce-auth-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{ctx: ctx, opts: opts, dir: dir, binaries: map[string]string{}, began: time.Now()}
	b.outermost = append(b.outermost, func() { _ = os.RemoveAll(dir) })
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

// onClose has something done when the bench ends, or when what it belongs to
// does: the last comes first.
func (b *bench) onClose(end func()) { b.closers = append(b.closers, end) }

func (b *bench) close() {
	closeAll(&b.closers)
	closeAll(&b.outermost)
}

func closeAll(closers *[]func()) {
	for len(*closers) > 0 {
		last := (*closers)[len(*closers)-1]
		*closers = (*closers)[:len(*closers)-1]
		last()
	}
}

// during runs part of a scenario, and ends what that has started.
func (b *bench) during(part func() error) error {
	outer := b.closers
	b.closers = nil
	defer func() {
		closeAll(&b.closers)
		b.closers = outer
	}()
	return part()
}

// lasting runs what starts something that lasts as long as the bench, though a
// scenario starts it.
func (b *bench) lasting(start func() error) error {
	inner := b.closers
	b.closers = nil
	err := start()
	b.outermost = append(b.outermost, b.closers...)
	b.closers = inner
	return err
}

// file is the name of a file in the bench's own directory.
func (b *bench) file(name string) string { return filepath.Join(b.dir, name) }

// logf tells who waits how far it is.
func (b *bench) logf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "%5.1fs  "+format+"\n", append([]any{time.Since(b.began).Seconds()}, args...)...)
}
