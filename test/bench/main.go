// Command bench measures what a request costs with pkce_auth in front of an
// application, side by side with a Caddy that does not have it.
//
//	go run ./test/bench                     everything: a table, and bin/bench/bench.json and bench.svg
//	go run ./test/bench -quick              all of it, roughly, in less than a minute
//	go run ./test/bench -only 'compare'     some of the scenarios
//
// It starts what it needs on loopback, on ports that the kernel chooses, and ends
// it; the OpenID Provider and the upstream are in this process. It needs Linux,
// whose /proc knows the CPU time of a process to the nanosecond.
//
// Other proxies take part when they are there: OAUTH2_PROXY_BIN and
// CADDY_SECURITY_BIN name their binaries.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	rounds   int           // of slices, in each comparison
	slice    time.Duration // how long each subject is measured at a time
	rate     int           // requests per second at fixed load
	quick    bool
	sessions int // whose memory is looked at
	only     *regexp.Regexp
	out      string // a directory
	docs     string // a directory, or empty
}

func main() {
	opts, err := parse(os.Args[1:])
	if err == nil {
		err = bounded(opts)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// longest is how long the bench may take, whatever is asked of it.
const longest = time.Hour

func bounded(opts options) error {
	ctx, cancel := context.WithTimeout(context.Background(), longest)
	defer cancel()
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	return run(ctx, opts, os.Stdout)
}

func parse(args []string) (options, error) {
	var opts options
	only := ""
	flags := flag.NewFlagSet("bench", flag.ExitOnError)
	flags.IntVar(&opts.rounds, "rounds", 50, "how often each subject is measured")
	flags.DurationVar(&opts.slice, "slice", 100*time.Millisecond, "how long each subject is measured at a time")
	flags.IntVar(&opts.rate, "rate", 1500, "requests per second at fixed load")
	flags.IntVar(&opts.sessions, "sessions", 10_000, "with how many sessions memory is looked at, at most")
	flags.BoolVar(&opts.quick, "quick", false, "few and short slices, and few sessions: a smoke test")
	flags.StringVar(&only, "only", "", "only scenarios that match this `regexp`")
	flags.StringVar(&opts.out, "out", "bin/bench", "where bench.json and bench.svg go")
	flags.StringVar(&opts.docs, "docs", "", "a `directory` whose performance.md and performance.svg get the results, too")
	if err := flags.Parse(args); err != nil {
		return opts, err
	}
	if opts.quick {
		opts.rounds, opts.slice = min(opts.rounds, 3), min(opts.slice, 40*time.Millisecond)
	}
	var err error
	opts.only, err = regexp.Compile(only)
	return opts, err
}

// run measures every scenario, and then reports what was found. What fails, ends
// it: figures of something that answers wrongly are none.
func run(ctx context.Context, opts options, out io.Writer) (err error) {
	b, err := newBench(ctx, opts)
	if err != nil {
		return err
	}
	defer b.close()
	defer func() { err = errors.Join(err, b.report.publish(opts, out)) }()
	for _, s := range scenarios {
		if !opts.only.MatchString(s.name) {
			continue
		}
		began := time.Now()
		b.logf("%s: %s", s.name, s.about)
		if err := b.during(func() error { return s.run(b) }); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		b.logf("%s: took %.1f s", s.name, time.Since(began).Seconds())
	}
	return nil
}
