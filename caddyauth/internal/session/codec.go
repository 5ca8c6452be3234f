package session

import (
	"bytes"
	"compress/flate"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
)

// A session is written as
//
//	version 3 ‖ length ‖ deflated words ‖ noise ‖ zeros up to a multiple of 64
//
// See noise.go for what words and noise are. Fields may be added at the end: an
// older session reads as if they were zero. Anything else needs a new version;
// an unknown one is no session, so that its user is logged in anew.
//
// The words are compressed because tokens are JSON in base64, and JSON deflates
// to half and less once it is decoded. That is safe here: nothing in a session
// is chosen by someone who does not already have it, and the padding blurs the
// length. Login state, where a stranger's URL stands beside the verifier, is
// never compressed.
const (
	codecVersion = 3
	padding      = 64

	// maxRecord bounds a session, as text and as words (A83). Sessions are far
	// smaller: what does not fit two cookies is never written.
	maxRecord = 64 << 10
)

var errCodec = errors.New("malformed session")

// encode writes a session for storage under a seal: the whole of it, or without
// the ID token, which takes much room and is seldom needed.
func encode(s *Session, whole bool) ([]byte, error) {
	var w packer
	writeID(&w, s.ID)
	w.Text(s.Subject)
	writeSources(&w, s.Sources)
	writeToken(&w, s.AccessToken)
	w.Time(s.TokenExpiry)
	w.Text(s.Scope)
	w.Time(s.Created)
	w.Time(s.Seen)
	writeToken(&w, s.RefreshToken)
	w.Time(s.TokenIssued)
	w.Number(s.Generation)
	w.Time(s.Ends)
	idToken := s.IDToken
	if !whole {
		idToken = rp.Secret{}
	}
	writeToken(&w, idToken)
	writeStep(&w, s.Step)
	writeFurther(&w, s.further.tokens)
	w.Number(s.since)
	return w.pack()
}

// sourceLetters are how the sources of claims are written.
var sourceLetters = map[rp.ClaimSource]string{rp.FromIDToken: "i", rp.FromAccessToken: "a", rp.FromUserinfo: "u"}

func writeSources(w *packer, sources []rp.SourcedClaims) {
	w.Number(uint64(len(sources)))
	for _, source := range sources {
		w.Text(sourceLetters[source.From])
		w.Text(string(source.Claims.Raw()))
	}
}

func readSources(r *unpacker) (sources []rp.SourcedClaims) {
	for range min(r.Number(), uint64(len(sourceLetters))) {
		letter, raw := r.Text(), r.Bytes()
		for from, l := range sourceLetters {
			if l != letter {
				continue
			}
			var set claims.Set
			if len(raw) > 0 {
				set = claims.Kept(raw)
			}
			sources = append(sources, rp.SourcedClaims{From: from, Claims: set})
		}
	}
	return sources
}

// pack gives what was written, if it can be read again.
func (w *packer) pack() ([]byte, error) {
	if size := max(w.size, len(w.Bytes())); size > maxRecord {
		return nil, fmt.Errorf("record has %d bytes, more than %d", size, maxRecord)
	}
	return compose(w.Bytes(), w.noise)
}

// deflaters are reused: one costs some 800 kB.
var deflaters = sync.Pool{New: func() any {
	z, _ := flate.NewWriterDict(io.Discard, flate.BestCompression, dictionary) // fails for unknown levels only
	return z
}}

// compose deflates the words, puts the noise behind them, and pads.
func compose(words, noise []byte) ([]byte, error) {
	var deflated bytes.Buffer
	z := deflaters.Get().(*flate.Writer)
	defer deflaters.Put(z)
	z.Reset(&deflated) // to the dictionary, too
	if _, err := z.Write(words); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	out := binary.AppendUvarint([]byte{codecVersion}, uint64(deflated.Len()))
	out = append(append(out, deflated.Bytes()...), noise...)
	if rest := len(out) % padding; rest > 0 {
		out = append(out, make([]byte, padding-rest)...)
	}
	return out, nil
}

// decode reads what encode wrote.
func decode(data []byte) (*Session, error) {
	r, err := unpack(data)
	if err != nil {
		return nil, err
	}
	defer r.release()
	s := &Session{ID: readID(r), loaded: new(loaded)}
	s.Subject = r.Text()
	s.Sources = readSources(r)
	s.Claims = s.Identity.Claims()
	s.bearer, s.AccessToken = readBearer(r)
	s.TokenExpiry = r.Time()
	s.Scope = r.Text()
	s.Created = r.Time()
	s.Seen = r.Time()
	s.RefreshToken = rp.NewSecret(readToken(r))
	s.TokenIssued = r.Time()
	s.Generation = r.Number()
	s.Ends = r.Time()
	idToken := readToken(r)
	s.Step = readStep(r)
	s.further.tokens = readFurther(r)
	s.since = r.Number()
	if r.Err() != nil || s.ID == "" || s.AccessToken.Empty() {
		return nil, errCodec
	}
	verified, _ := s.Source(rp.FromIDToken)
	s.setIDToken(idToken, verified)
	return s, nil
}

// A token that is a JWT is kept with its three parts decoded, if encoding
// them gives back the very same text; any other is kept as it is.
const (
	tokenAsIs = 0
	tokenJWT  = 1
)

var segment = base64.RawURLEncoding.Strict()

func writeToken(w *packer, token rp.Secret) {
	text := token.Reveal()
	header, rest, _ := strings.Cut(text, ".")
	payload, signature, ok := strings.Cut(rest, ".")
	var parts [3][]byte
	for i, part := range []string{header, payload, signature} {
		var err error
		parts[i], err = segment.DecodeString(part)
		ok = ok && err == nil
	}
	// encoding/base64 skips line breaks, even when it is strict.
	if !ok || strings.ContainsAny(text, "\r\n") {
		w.Number(tokenAsIs)
		w.Text(text)
		return
	}
	w.Number(tokenJWT)
	w.Text(string(parts[0]))
	w.Text(string(parts[1]))
	w.Raw(parts[2])
}

func readToken(r *unpacker) string { return readTokenBehind(r, "") }

// readBearer reads a token as it goes upstream.
func readBearer(r *unpacker) (header, token rp.Secret) {
	return bearerOf(readTokenBehind(r, scheme))
}

// readTokenBehind reads a token, and gives it with something in front.
func readTokenBehind(r *unpacker, front string) string {
	r.token = append(r.token[:0], front...)
	if r.Number() == tokenAsIs {
		r.token = append(r.token, r.Bytes()...)
		return string(r.token)
	}
	r.token = segment.AppendEncode(r.token, r.Bytes())
	r.token = append(r.token, '.')
	r.token = segment.AppendEncode(r.token, r.Bytes())
	r.token = append(r.token, '.')
	r.token = segment.AppendEncode(r.token, r.Raw())
	return string(r.token)
}

// idText is how IDs are written that were drawn here.
var idText = base32.StdEncoding.WithPadding(base32.NoPadding)

// drawnID gives the bytes that were drawn for an ID.
func drawnID(id string) ([]byte, bool) {
	drawn, err := idText.DecodeString(id)
	return drawn, err == nil && len(drawn) == idSize && idText.EncodeToString(drawn) == id
}

// writeID writes the ID of a session: as it was drawn, or any other as it is.
func writeID(w *packer, id string) {
	if drawn, ok := drawnID(id); ok {
		w.Raw(drawn)
		return
	}
	w.Raw(nil)
	w.Text(id)
}

func readID(r *unpacker) string {
	if drawn := r.Raw(); len(drawn) > 0 {
		return idText.EncodeToString(drawn)
	}
	return r.Text()
}
