package session

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"strings"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// What a session holds is of two kinds: words, which repeat themselves and the
// dictionary, and noise (signatures, identifiers, opaque tokens), of which each
// byte is as likely as the other. Compressed together, each spoils the code of
// the other; so noise stands apart, as the bytes it was before somebody wrote it
// as text, and marks among the words say where it belongs:
//
//	0 c   the byte c itself, which is one of the marks
//	1 n   4n characters of base64url
//	2 n   2n hexadecimal digits
//	3     a GUID
//	4     the piece behind the one that was repeated last
//	5 n   the n-th piece again
//
// Every text comes back byte for byte, whatever it is: what looks like noise
// decides on the size alone.
const (
	markItself = iota
	markBase64
	markHex
	markGUID
	markNext
	markAgain
	firstWord // no mark
)

// minNoise is the length of text from which a mark is worth it.
const minNoise = 12

// maxUnits is how much one mark stands for at most: its n is one byte.
const maxUnits = 255

var rawBase64 = base64.RawURLEncoding

// packer writes texts as words and noise.
type packer struct {
	sealed.Writer // of the words
	noise         []byte
	known         map[string]uint64 // the number of each piece of noise, by its text
	next          uint64            // the piece that markNext stands for
	size          int               // of all that was written, as text
	text          []byte
}

// Raw writes what is noise altogether.
func (p *packer) Raw(b []byte) {
	p.size += len(b)
	p.Number(uint64(len(b)))
	p.noise = append(p.noise, b...)
}

// Text writes a text.
func (p *packer) Text(s string) {
	if p.size += len(s); p.size > maxRecord { // pack refuses it
		return
	}
	p.text = p.text[:0]
	for i := 0; i < len(s); {
		end := i
		for end < len(s) && isWord(s[end]) {
			end++
		}
		if end == i {
			if s[i] < firstWord {
				p.text = append(p.text, markItself)
			}
			end++
			p.text = append(p.text, s[i])
		} else {
			p.piece(s[i:end])
		}
		i = end
	}
	p.Writer.Text(string(p.text))
}

// isWord reports whether a byte is of the alphabet of base64url.
func isWord(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// piece writes a piece of a text that may be noise.
func (p *packer) piece(s string) {
	switch {
	case len(s) < minNoise:
		p.text = append(p.text, s...)
	case isGUID(s):
		p.mark(markGUID, s)
	case isHex(s):
		n := min(len(s)/2, maxUnits)
		p.mark(markHex, s[:2*n])
		p.piece(s[2*n:])
	case isMixed(s):
		n := min(len(s)/4, maxUnits)
		p.mark(markBase64, s[:4*n])
		p.piece(s[4*n:])
	default:
		p.text = append(p.text, s...)
	}
}

// mark writes the mark of a piece of noise.
func (p *packer) mark(kind byte, s string) {
	if n, ok := p.known[s]; ok {
		if n == p.next {
			p.text = append(p.text, markNext)
		} else {
			p.text = binary.AppendUvarint(append(p.text, markAgain), n)
		}
		p.next = n + 1
		return
	}
	if p.known == nil {
		p.known = make(map[string]uint64)
	}
	p.known[s] = uint64(len(p.known))
	p.text = append(p.text, kind)
	switch kind { // neither can fail: the piece was looked at
	case markBase64:
		p.text = append(p.text, byte(len(s)/4))
		p.noise, _ = rawBase64.AppendDecode(p.noise, []byte(s))
	case markHex:
		p.text = append(p.text, byte(len(s)/2))
		p.noise, _ = hex.AppendDecode(p.noise, []byte(s))
	case markGUID:
		p.noise, _ = hex.AppendDecode(p.noise, []byte(strings.ReplaceAll(s, "-", "")))
	}
}

func isHexDigit(c byte) bool { return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' }

func isHex(s string) bool {
	for i := range len(s) {
		if !isHexDigit(s[i]) {
			return false
		}
	}
	return true
}

func isGUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash && s[i] != '-' || !dash && !isHexDigit(s[i]) {
			return false
		}
	}
	return true
}

// isMixed reports whether a text has small letters, capitals and digits, as what
// is random nearly always does and names hardly do.
func isMixed(s string) bool {
	var small, capital, digit bool
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z':
			small = true
		case 'A' <= c && c <= 'Z':
			capital = true
		case '0' <= c && c <= '9':
			digit = true
		}
	}
	return small && capital && digit
}
