package session

import (
	"bytes"
	"compress/flate"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/claims"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// A session is written as
//
//	version 2 ‖ length ‖ deflated record ‖ zeros up to a multiple of 64
//
// Fields may be added at the record's end: an older record reads as if they
// were zero. Anything else needs a new version; an unknown one is no session.
//
// The record is compressed because tokens are JSON in base64, which deflates
// to half and less once it is decoded. That is safe here: nothing in a
// session is chosen by someone who does not already have it, and the padding
// blurs the length. Login state, where a stranger's URL stands beside the
// verifier, is never compressed.
const (
	codecVersion = 2
	padding      = 64

	// maxRecord bounds inflating (A83). Sessions are far smaller: what does
	// not fit two cookies is never written.
	maxRecord = 64 << 10
)

var errCodec = errors.New("malformed session")

// dictionary primes the compressor with what tokens have in common. It is
// part of version 2: changing a byte of it makes all sessions unreadable.
var dictionary = []byte(`"email_verified":true,"preferred_username":"","given_name":"","family_name":"","nickname":"","picture":"https://",` +
	`"locale":"en","updated_at":"20","groups":["admin"],"roles":["user"],"permissions":[],"realm_access":{"roles":["offline_access",` +
	`"uma_authorization"]},"scp":["openid"],"tid":"","oid":"","sid":"","at_hash":"","auth_time":17,"azp":"","org_id":"org_",` +
	`"client_id":"","gty":"","jti":"","nonce":"","scope":"openid profile email offline_access","exp":17,"iat":17,"nbf":17,` +
	`"aud":["https://api.","https:///userinfo"],"sub":"auth0|","name":"","email":"@gmail.com","iss":"https://.eu.auth0.com/"}` +
	`{"alg":"RS256","typ":"JWT","kid":"}{"alg":"ES256","typ":"at+jwt","kid":"`)

// encode writes a session for storage under a seal: the whole of it, or without
// the ID token, which takes much room and is seldom needed.
func encode(s *Session, whole bool) ([]byte, error) {
	var w sealed.Writer
	w.Text(s.ID)
	w.Text(s.Subject)
	writeSources(&w, s.Sources)
	writeToken(&w, s.AccessToken)
	w.Time(s.TokenExpiry)
	w.Text(s.Scope)
	w.Time(s.Created)
	w.Time(s.Seen)
	w.Text(s.RefreshToken.Reveal())
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
	return pack(w.Bytes())
}

// sourceLetters are how the sources of claims are written.
var sourceLetters = map[rp.ClaimSource]string{rp.FromIDToken: "i", rp.FromAccessToken: "a", rp.FromUserinfo: "u"}

func writeSources(w *sealed.Writer, sources []rp.SourcedClaims) {
	w.Number(uint64(len(sources)))
	for _, source := range sources {
		w.Text(sourceLetters[source.From])
		w.Text(string(source.Claims.Raw()))
	}
}

func readSources(r *sealed.Reader) (sources []rp.SourcedClaims, err error) {
	for range min(r.Number(), uint64(len(sourceLetters))) {
		letter, raw := r.Text(), r.Text()
		for from, l := range sourceLetters {
			if l != letter {
				continue
			}
			var set claims.Set
			if raw != "" {
				if set, err = claims.Parse([]byte(raw)); err != nil {
					return nil, fmt.Errorf("%w: claims: %w", errCodec, err)
				}
			}
			sources = append(sources, rp.SourcedClaims{From: from, Claims: set})
		}
	}
	return sources, nil
}

// pack deflates and pads a record.
func pack(record []byte) ([]byte, error) {
	if len(record) > maxRecord {
		return nil, fmt.Errorf("record has %d bytes, more than %d", len(record), maxRecord)
	}
	var deflated bytes.Buffer
	z, err := flate.NewWriterDict(&deflated, flate.BestCompression, dictionary)
	if err != nil {
		return nil, err
	}
	if _, err := z.Write(record); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	out := binary.AppendUvarint([]byte{codecVersion}, uint64(deflated.Len()))
	out = append(out, deflated.Bytes()...)
	if rest := len(out) % padding; rest > 0 {
		out = append(out, make([]byte, padding-rest)...)
	}
	return out, nil
}

// decode reads what encode wrote. It is only called with what a seal has
// vouched for, and bounds all it does nevertheless.
func decode(data []byte) (*Session, error) {
	record, err := unpack(data)
	if err != nil {
		return nil, err
	}
	r := sealed.NewReader(record)
	s := &Session{ID: r.Text(), loaded: new(loaded)}
	s.Subject = r.Text()
	if s.Sources, err = readSources(r); err != nil {
		return nil, err
	}
	s.Claims = s.Identity.Claims()
	s.setToken(readToken(r))
	s.TokenExpiry = r.Time()
	s.Scope = r.Text()
	s.Created = r.Time()
	s.Seen = r.Time()
	s.RefreshToken = rp.NewSecret(r.Text())
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

// unpack gives the record that pack was given.
func unpack(data []byte) ([]byte, error) {
	if len(data) == 0 || data[0] != codecVersion {
		return nil, errCodec
	}
	length, n := binary.Uvarint(data[1:])
	if n <= 0 || length > uint64(len(data)-1-n) {
		return nil, errCodec
	}
	return inflate(data[1+n:][:length])
}

// inflaters are reused: one costs some 40 kB.
var inflaters = sync.Pool{New: func() any { return flate.NewReaderDict(bytes.NewReader(nil), dictionary) }}

func inflate(data []byte) ([]byte, error) {
	z := inflaters.Get().(io.Reader)
	defer inflaters.Put(z)
	if err := z.(flate.Resetter).Reset(bytes.NewReader(data), dictionary); err != nil {
		return nil, errCodec
	}
	record, err := io.ReadAll(io.LimitReader(z, maxRecord+1))
	if err != nil || len(record) > maxRecord {
		return nil, errCodec
	}
	return record, nil
}

// A token that is a JWT is kept with its three parts decoded, if encoding
// them gives back the very same text; any other is kept as it is.
const (
	tokenAsIs = 0
	tokenJWT  = 1
)

var segment = base64.RawURLEncoding.Strict()

func writeToken(w *sealed.Writer, token rp.Secret) {
	text := token.Reveal()
	parts := strings.Split(text, ".")
	if len(parts) != 3 || strings.ContainsAny(text, "\r\n") {
		w.Number(tokenAsIs)
		w.Text(text)
		return
	}
	var decoded [3][]byte
	for i, part := range parts {
		var err error
		if decoded[i], err = segment.DecodeString(part); err != nil {
			w.Number(tokenAsIs)
			w.Text(text)
			return
		}
	}
	w.Number(tokenJWT)
	for _, part := range decoded {
		w.Text(string(part))
	}
}

func readToken(r *sealed.Reader) string {
	if r.Number() == tokenAsIs {
		return r.Text()
	}
	var parts [3]string
	for i := range parts {
		parts[i] = segment.EncodeToString([]byte(r.Text()))
	}
	return strings.Join(parts[:], ".")
}
