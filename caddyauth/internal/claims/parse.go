package claims

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Parse reads one JSON object. It refuses what could be read in two ways:
// invalid UTF-8, a member that stands twice, anything behind the object, and
// a member whose name equals one of guarded but for its case (RFC 7519
// section 4, RFC 8725 section 2.6).
//
// It reads what encoding/json reads, to the same values (RFC 8259); a fuzz test
// holds them against each other. It does so itself because a session's claims
// are read whenever its cookie is opened: all texts share the memory of one.
func Parse(data []byte, guarded ...string) (Set, error) {
	if !utf8.Valid(data) {
		return Set{}, errors.New("not valid UTF-8")
	}
	p := parser{text: string(data)}
	p.space()
	if p.peek() != '{' {
		return Set{}, errors.New("not a JSON object")
	}
	members, err := p.object(1, func(name string, members map[string]any) error {
		if _, ok := members[name]; ok {
			return fmt.Errorf("member %.64q stands twice", name)
		}
		for _, g := range guarded {
			if name != g && strings.EqualFold(name, g) {
				return fmt.Errorf("member %.64q imitates %q", name, g)
			}
		}
		return nil
	})
	if err != nil {
		return Set{}, err
	}
	if p.space(); p.at < len(p.text) {
		return Set{}, errors.New("something follows the JSON object")
	}
	return Set{text: p.text, members: members}, nil
}

var errMalformed = errors.New("malformed JSON")

// maxDepth is how deep arrays and objects may be nested: as in encoding/json.
const maxDepth = 10_000

// parser reads JSON from a text.
type parser struct {
	text  string
	at    int
	under []any // the members, so far, of the arrays that are being read
}

// peek gives the next byte; 0, which stands nowhere in JSON, at the end.
func (p *parser) peek() byte {
	if p.at == len(p.text) {
		return 0
	}
	return p.text[p.at]
}

func (p *parser) space() {
	for p.at < len(p.text) {
		switch p.text[p.at] {
		case ' ', '\t', '\n', '\r':
			p.at++
		default:
			return
		}
	}
}

// take reports whether c comes next, after spaces, and passes it if so.
func (p *parser) take(c byte) bool {
	p.space()
	if p.peek() != c {
		return false
	}
	p.at++
	return true
}

// object reads an object that is nested so deep. check, unless it is nil, is
// asked about each name before its value is read.
func (p *parser) object(depth int, check func(name string, members map[string]any) error) (map[string]any, error) {
	if !p.take('{') || depth > maxDepth {
		return nil, errMalformed
	}
	members := make(map[string]any)
	if p.take('}') {
		return members, nil
	}
	for {
		p.space()
		name, err := p.string()
		if err != nil {
			return nil, err
		}
		if check != nil {
			if err := check(name, members); err != nil {
				return nil, err
			}
		}
		if !p.take(':') {
			return nil, errMalformed
		}
		if members[name], err = p.value(depth); err != nil {
			return nil, err
		}
		if p.take('}') {
			return members, nil
		}
		if !p.take(',') {
			return nil, errMalformed
		}
	}
}

func (p *parser) array(depth int) ([]any, error) {
	if !p.take('[') || depth > maxDepth {
		return nil, errMalformed
	}
	if p.take(']') {
		return []any{}, nil
	}
	from := len(p.under)
	for {
		v, err := p.value(depth)
		if err != nil {
			return nil, err
		}
		p.under = append(p.under, v)
		if p.take(']') {
			list := make([]any, len(p.under)-from)
			copy(list, p.under[from:])
			p.under = p.under[:from]
			return list, nil
		}
		if !p.take(',') {
			return nil, errMalformed
		}
	}
}

// value reads a value within what is nested so deep.
func (p *parser) value(depth int) (any, error) {
	p.space()
	switch c := p.peek(); {
	case c == '{':
		return p.object(depth+1, nil)
	case c == '[':
		return p.array(depth + 1)
	case c == '"':
		return p.string()
	case c == '-' || '0' <= c && c <= '9':
		return p.number()
	default:
		return p.word()
	}
}

func (p *parser) word() (any, error) {
	rest := p.text[p.at:]
	switch {
	case strings.HasPrefix(rest, "true"):
		p.at += len("true")
		return true, nil
	case strings.HasPrefix(rest, "false"):
		p.at += len("false")
		return false, nil
	case strings.HasPrefix(rest, "null"):
		p.at += len("null")
		return nil, nil
	default:
		return nil, errMalformed
	}
}

// string reads a string. Escapes are rare, and left to encoding/json.
func (p *parser) string() (string, error) {
	if p.peek() != '"' {
		return "", errMalformed
	}
	escaped := false
	for i := p.at + 1; i < len(p.text); i++ {
		switch c := p.text[i]; {
		case c == '"':
			literal := p.text[p.at : i+1]
			p.at = i + 1
			if !escaped {
				return literal[1 : len(literal)-1], nil
			}
			var s string
			if json.Unmarshal([]byte(literal), &s) != nil {
				return "", errMalformed
			}
			return s, nil
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			return "", errMalformed
		}
	}
	return "", errMalformed
}

// number reads a number, which keeps its digits.
func (p *parser) number() (json.Number, error) {
	from := p.at
	if p.peek() == '-' {
		p.at++
	}
	if p.peek() == '0' {
		p.at++
	} else if !p.digits() {
		return "", errMalformed
	}
	if p.peek() == '.' {
		p.at++
		if !p.digits() {
			return "", errMalformed
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		p.at++
		if c := p.peek(); c == '+' || c == '-' {
			p.at++
		}
		if !p.digits() {
			return "", errMalformed
		}
	}
	return json.Number(p.text[from:p.at]), nil
}

// digits passes digits, and reports whether there were any.
func (p *parser) digits() bool {
	from := p.at
	for '0' <= p.peek() && p.peek() <= '9' {
		p.at++
	}
	return p.at > from
}
