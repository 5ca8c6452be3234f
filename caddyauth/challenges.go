package caddyauth

import (
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// The errors of a Bearer challenge that we know what to do about.
const (
	errorInvalidToken = "invalid_token"                    // RFC 6750 section 3.1
	errorInsufficient = "insufficient_user_authentication" // RFC 9470 section 3
)

// Bounds of what an upstream may say in WWW-Authenticate. What is beyond them
// is none of our business, and passes as it is.
const (
	maxChallengeSize = 4 << 10 // of all lines together
	maxACRValues     = 512     // bytes: they go into a URL, and into a cookie
	maxChallengeAge  = 10 * 365 * 24 * time.Hour
)

var errChallenge = errors.New("no challenge that can be read in one way only")

// rejection is an upstream's challenge that says what was wrong with the
// access token.
type rejection struct {
	code string // the parameter "error"
	ask  rp.Ask // what a login would have to bring

	line, end int  // the header line that it stands in, and where in that it ends
	linked    bool // whether it says itself where to log in
}

// parseRejection finds the one Bearer challenge with an error among the lines
// of WWW-Authenticate. Whatever is not as RFC 9110 section 11.6.1 has it, or
// could be read in two ways, is an error: then nothing is done about it.
func parseRejection(lines []string) (found rejection, err error) {
	size := 0
	for _, line := range lines {
		size += len(line)
	}
	if size > maxChallengeSize {
		return rejection{}, errChallenge
	}
	for i, line := range lines {
		challenges, err := parseChallenges(line)
		if err != nil {
			return rejection{}, err
		}
		for _, c := range challenges {
			code, ok := c.params["error"]
			if !strings.EqualFold(c.scheme, "Bearer") || !ok {
				continue
			}
			if found.code != "" || code == "" {
				return rejection{}, errChallenge
			}
			found = rejection{code: code, line: i, end: c.end}
			_, found.linked = c.params["login_url"]
			if found.ask, err = c.ask(); err != nil {
				return rejection{}, err
			}
		}
	}
	if found.code == "" {
		return rejection{}, errChallenge
	}
	return found, nil
}

// ask reads what a challenge asks for (RFC 9470 section 3).
func (c *challenge) ask() (ask rp.Ask, err error) {
	if text, ok := c.params["max_age"]; ok {
		seconds, err := strconv.ParseUint(text, 10, 32)
		age := time.Duration(seconds) * time.Second //nolint:gosec // 32 bits
		if err != nil || age > maxChallengeAge {
			return rp.Ask{}, errChallenge
		}
		ask.MaxAge = &age
	}
	if text, ok := c.params["acr_values"]; ok {
		ask.ACRValues = strings.Split(text, " ")
		if len(text) > maxACRValues || slices.ContainsFunc(ask.ACRValues, func(value string) bool { return !validACR(value) }) {
			return rp.Ask{}, errChallenge
		}
	}
	return ask, nil
}

// validACR reports whether a text is one ACR value that can stand in a
// quoted-string as it is.
func validACR(value string) bool {
	return value != "" && !strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || r == '"' || r == '\\' })
}

// challenge is one challenge of a WWW-Authenticate line.
type challenge struct {
	scheme string
	params map[string]string // by lower-case name
	open   bool              // whether parameters may follow: not behind a token68
	end    int               // where it ends in the line
}

// parseChallenges reads a line:
//
//	#challenge, where challenge = auth-scheme [ 1*SP ( token68 / #auth-param ) ]
//
// Both lists are separated by commas and may have empty elements. What follows
// a comma is a parameter of the challenge before it if there is a "=" behind
// the first word, else a new challenge.
func parseChallenges(line string) (challenges []challenge, err error) {
	s := challengeScanner{text: line}
	for {
		s.skip(" \t,")
		if s.done() {
			return challenges, nil
		}
		word := s.token()
		if word == "" {
			return nil, errChallenge
		}
		if len(challenges) > 0 && s.ahead('=') {
			err = s.param(&challenges[len(challenges)-1], word)
		} else {
			challenges = append(challenges, challenge{scheme: word, end: s.at})
			err = s.first(&challenges[len(challenges)-1])
		}
		if err != nil || !s.elementEnds() {
			return nil, errChallenge
		}
	}
}

// challengeScanner walks through a line.
type challengeScanner struct {
	text string
	at   int
}

func (s *challengeScanner) done() bool { return s.at == len(s.text) }

func (s *challengeScanner) skip(set string) {
	for !s.done() && strings.IndexByte(set, s.text[s.at]) >= 0 {
		s.at++
	}
}

// elementEnds reports whether only a comma may follow, and nothing else does.
func (s *challengeScanner) elementEnds() bool {
	s.skip(" \t")
	return s.done() || s.text[s.at] == ','
}

// ahead reports whether c is next, behind white space.
func (s *challengeScanner) ahead(c byte) bool {
	rest := strings.TrimLeft(s.text[s.at:], " \t")
	return rest != "" && rest[0] == c
}

// token reads a token (RFC 9110 section 5.6.2); empty when there is none.
func (s *challengeScanner) token() string {
	begin := s.at
	for !s.done() && httpguts.IsTokenRune(rune(s.text[s.at])) {
		s.at++
	}
	return s.text[begin:s.at]
}

// first reads what stands behind a scheme, up to the first comma: nothing, a
// token68, or the first parameter.
func (s *challengeScanner) first(c *challenge) error {
	if s.done() || s.text[s.at] != ' ' {
		return nil
	}
	c.open = true
	s.skip(" ")
	if s.done() || s.text[s.at] == ',' {
		return nil
	}
	begin := s.at
	if word := s.token(); word != "" && s.ahead('=') && s.param(c, word) == nil {
		return nil
	}
	s.at, c.params, c.open = begin, nil, false // "dG9rZW4=" is no parameter without a value
	if s.token68() == "" {
		return errChallenge
	}
	c.end = s.at
	return nil
}

// token68 reads what other schemes have in place of parameters (RFC 9110
// section 11.2).
func (s *challengeScanner) token68() string {
	begin := s.at
	for !s.done() && (s.text[s.at] == '/' || httpguts.IsTokenRune(rune(s.text[s.at])) && strings.IndexByte("!#$%&'*^`|", s.text[s.at]) < 0) {
		s.at++
	}
	if s.at > begin {
		s.skip("=")
	}
	return s.text[begin:s.at]
}

// param reads a parameter, of which the name was read. A name may stand only
// once.
func (s *challengeScanner) param(c *challenge, name string) error {
	name = strings.ToLower(name)
	if _, twice := c.params[name]; twice || !c.open {
		return errChallenge
	}
	s.skip(" \t")
	s.at++ // the "="
	s.skip(" \t")
	value, ok := s.value()
	if !ok {
		return errChallenge
	}
	if c.params == nil {
		c.params = map[string]string{}
	}
	c.params[name], c.end = value, s.at
	return nil
}

// value reads a token or a quoted-string (RFC 9110 section 5.6.4).
func (s *challengeScanner) value() (string, bool) {
	if s.done() || s.text[s.at] != '"' {
		text := s.token()
		return text, text != ""
	}
	var b strings.Builder
	for s.at++; !s.done(); s.at++ {
		switch c := s.text[s.at]; {
		case c == '"':
			s.at++
			return b.String(), true
		case c == '\\':
			if s.at++; s.done() || !isQuotable(s.text[s.at]) {
				return "", false
			}
			b.WriteByte(s.text[s.at])
		case !isQuotable(c):
			return "", false
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

func isQuotable(c byte) bool { return c == '\t' || c >= ' ' && c != 0x7f }

// link adds to a challenge where to log in. The lines that are given stay as
// they are.
func (r *rejection) link(lines []string, loginURL string) []string {
	if r.linked {
		return lines
	}
	lines = slices.Clone(lines)
	line := lines[r.line]
	lines[r.line] = line[:r.end] + `, login_url=` + quoted(loginURL) + line[r.end:]
	return lines
}
