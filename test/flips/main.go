// Command flips takes the checks of ID tokens, logout tokens and access tokens
// out, one at a time, and looks whether a test notices. What no test notices is
// a check that could go without anybody seeing it: the program lists it and ends
// with status 1.
//
//	go run ./test/flips
//	go run ./test/flips -match checkNonce
//
// It runs in the module's directory and never touches a source file. The files
// of the checklist are copied into a temporary directory, with every flip in
// them behind a switch, and an overlay (go help build) has the go command
// compile the copies in their place: once, for compiling each flip by itself
// takes longer than all tests. Then the tests run for each flip, which they get
// by the environment variable FLIP.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"time"
)

// atOnce is how many flips are tried at the same time.
const atOnce = 2

func main() {
	match := flag.String("match", "", "only flips whose `text`, as it is printed, holds this")
	flag.Parse()
	if err := run(*match); err != nil {
		fmt.Fprintln(os.Stderr, "flips:", err)
		os.Exit(1)
	}
}

func run(match string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	flips, copies, err := find(packageDir)
	if err != nil {
		return err
	}
	if err := stale(flips); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "flips-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	began := time.Now()
	t, err := build(ctx, dir, copies)
	if err != nil {
		return err
	}
	// Tests that fail by themselves would kill every flip.
	if killed, output := t.test(ctx, 0, everything, none); killed {
		return fmt.Errorf("the tests fail without any flip:\n%s", output)
	}
	flips = slices.DeleteFunc(flips, func(f flip) bool { return !strings.Contains(f.String(), match) })
	if len(flips) == 0 {
		return fmt.Errorf("no flip holds %q", match)
	}
	outcomes := t.all(ctx, flips)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return report(flips, outcomes, time.Since(began))
}

// all tries the flips and returns what came of each.
func (t *tester) all(ctx context.Context, flips []flip) []outcome {
	outcomes := make([]outcome, len(flips))
	next := make(chan int)
	var done sync.WaitGroup
	var mu sync.Mutex
	tried := 0
	for range atOnce {
		done.Go(func() {
			for i := range next {
				o := t.try(ctx, &flips[i])
				mu.Lock()
				if outcomes[i] = o; o == survived {
					fmt.Printf("survived: %s\n", &flips[i])
				}
				if tried++; tried%100 == 0 {
					fmt.Printf("%d of %d flips tried\n", tried, len(flips))
				}
				mu.Unlock()
			}
		})
	}
	for i := range flips {
		next <- i
	}
	close(next)
	done.Wait()
	return outcomes
}

func report(flips []flip, outcomes []outcome, took time.Duration) error {
	var sums [3]int // by outcome
	for _, kind := range kinds {
		var of [3]int
		for i, f := range flips {
			if f.kind == kind {
				of[outcomes[i]]++
				sums[outcomes[i]]++
			}
		}
		fmt.Printf("%-10s %s\n", kind, figures(of))
	}
	fmt.Printf("%-10s %s, in %s\n", "all", figures(sums), took.Round(time.Second))
	if sums[survived] == 0 {
		return nil
	}
	for i := range flips {
		if outcomes[i] == survived {
			fmt.Fprintf(os.Stderr, "no test notices %s\n", &flips[i])
		}
	}
	return errors.New("there are checks that no test holds")
}

func figures(of [3]int) string {
	return fmt.Sprintf("%3d flips: %3d killed, %2d equivalent, %2d survived",
		of[killed]+of[equivalent]+of[survived], of[killed], of[equivalent], of[survived])
}
