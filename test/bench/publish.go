package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// publish writes the report to out, to files, and, where that is wanted, into
// the docs.
func (r *report) publish(opts options, out io.Writer) error {
	var table, data, plot bytes.Buffer
	r.table(&table)
	if _, err := out.Write(table.Bytes()); err != nil {
		return err
	}
	encoder := json.NewEncoder(&data)
	encoder.SetIndent("", "\t")
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(r); err != nil {
		return err
	}
	if err := r.plot(&plot); err != nil {
		return fmt.Errorf("drawing: %w", err)
	}
	if err := os.MkdirAll(opts.out, 0o755); err != nil {
		return err
	}
	for name, content := range map[string][]byte{"bench.txt": table.Bytes(), "bench.json": data.Bytes(), "bench.svg": plot.Bytes()} {
		if err := os.WriteFile(filepath.Join(opts.out, name), content, 0o644); err != nil {
			return err
		}
	}
	if opts.docs == "" {
		return nil
	}
	return document(opts.docs, table.Bytes(), plot.Bytes())
}

// What stands between these lines of performance.md is the bench's.
const (
	docsBegin = "<!-- what `make bench-docs` found begins here -->\n"
	docsEnd   = "<!-- what `make bench-docs` found ends here -->\n"
)

// document puts the results into the docs.
func document(dir string, table, plot []byte) error {
	file := filepath.Join(dir, "performance.md")
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	text, err = between(text, table)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "performance.svg"), plot, 0o644)
}

func between(text, table []byte) ([]byte, error) {
	before, rest, begins := bytes.Cut(text, []byte(docsBegin))
	_, after, ends := bytes.Cut(rest, []byte(docsEnd))
	if !begins || !ends {
		return nil, errors.New("it lacks the lines between which the results go")
	}
	return fmt.Appendf(nil, "%s%s\n```text\n%s```\n\n%s%s", before, docsBegin, table, docsEnd, after), nil
}
