package caddyauth

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

var placeholder = regexp.MustCompile(`\{([^{}]*)\}`)

func hasPlaceholder(s string) bool { return placeholder.MatchString(s) }

// checkPlaceholders refuses placeholders that are not fixed when Caddy
// starts: what a request says must not become a part of a secret, an issuer
// or a URL of ours (A122).
func checkPlaceholders(s string) error {
	for _, match := range placeholder.FindAllStringSubmatch(s, -1) {
		if !strings.HasPrefix(match[1], "env.") && !strings.HasPrefix(match[1], "file.") {
			return fmt.Errorf("placeholder %s cannot be used here, only {env.NAME} and {file./path}", match[0])
		}
	}
	return nil
}

// resolve replaces {env.NAME} and {file./path} with what they stand for now.
// One that gives nothing is an error: an unset variable must not turn into an
// empty secret.
func resolve(s string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(s, true, true)
	if err != nil {
		return "", fmt.Errorf("%w: set it, or mount the file", err)
	}
	return resolved, nil
}

// secretReader returns a function that reads a secret whenever it is needed,
// so that one that is rotated in its file needs no reload. The text with the
// placeholder is kept here, out of the configuration's fields, which Caddy may
// log (K4).
func secretReader(text string) func() (rp.Secret, error) {
	if text == "" {
		return nil
	}
	return func() (rp.Secret, error) {
		secret, err := resolve(text)
		return rp.NewSecret(secret), err
	}
}

// exampleWord betrays a secret that somebody copied from a manual.
var exampleWord = regexp.MustCompile(`(?i)change.?me|change.?it|example|placeholder|your.?secret|insert|replace|password|<.*>`)

const howToMakeASecret = "make one with: openssl rand -hex 32"

// parseCookieSecret reads a secret in one of its three forms: hexadecimal,
// base64, or raw.
func parseCookieSecret(text string) ([]byte, error) {
	secret, encoded := []byte(text), false
	if b, err := hex.DecodeString(text); err == nil && len(b) >= sealed.MinSecretSize {
		secret, encoded = b, true
	} else if b, ok := fromBase64(text); ok && len(b) >= sealed.MinSecretSize {
		secret, encoded = b, true
	}
	switch {
	case len(secret) < sealed.MinSecretSize:
		return nil, fmt.Errorf("is too short, %d bytes are needed: %s", sealed.MinSecretSize, howToMakeASecret)
	case !encoded && exampleWord.MatchString(text), looksMadeUp(secret):
		return nil, errors.New("is an example, not a secret: " + howToMakeASecret)
	default:
		return secret, nil
	}
}

func fromBase64(text string) ([]byte, bool) {
	text = strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if b, err := encoding.DecodeString(text); err == nil {
			return b, true
		}
	}
	return nil, false
}

// looksMadeUp reports whether bytes are few and repeated, or counted up: 32
// random ones have fewer than 16 different values once in 10^14 times.
func looksMadeUp(secret []byte) bool {
	different := map[byte]bool{}
	steady := true
	for i, b := range secret {
		different[b] = true
		steady = steady && (i < 2 || b-secret[i-1] == secret[1]-secret[0])
	}
	return steady || len(different) < 16
}
