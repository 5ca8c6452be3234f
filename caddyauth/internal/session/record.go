package session

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"
	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/sealed"
)

// What a store keeps of a session is
//
//	1 ‖ length ‖ summary, sealed with our key ‖ length ‖ session, sealed with its own key
//
// The session's own key is in the browser's cookie only: who reads the store
// learns no token, not even with our key. The summary is for those who look
// after sessions without the cookie: the provider that ends one, and an
// operator.
const recordVersion = 1

// kept is what a store is known to hold of a session.
type kept struct {
	handle     string
	version    uint64 // of the record
	generation uint64 // of the tokens in it
	seen       time.Time

	checked atomic.Int64 // when the store was last asked, in Unix nanoseconds
	writing atomic.Bool  // whether somebody is writing what is newer, or has tried just now
}

// holds reports whether the record says all that s does.
func (k *kept) holds(s *Session) bool { return k.generation == s.Generation && !s.Seen.After(k.seen) }

// Summary is what can be told of a session without its browser's cookie.
type Summary struct {
	Handle     string // see Session.Handle
	Subject    string
	ProviderID string // the provider's name for its session
	Created    time.Time
	Seen       time.Time
	Expires    time.Time // if it is not used again; in the past of what is left of one that is over
}

// keySize is the size of a session's own key.
const keySize = 32

func newKey() string {
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails: crypto/rand crashes the program instead
	return string(key)
}

// ownBox seals a session for the store, with the session's own key.
func ownBox(key rp.Secret, handle string) (*sealed.Box, error) {
	ring, err := sealed.NewKeyring([]byte(key.Reveal()))
	if err != nil {
		return nil, err
	}
	return sealed.NewBox(ring, "record", handle), nil
}

// sealRecord makes what the store keeps of a session that is over by then.
func (k *Stored) sealRecord(s *Session, handle string, over time.Time) ([]byte, error) {
	whole, err := encode(s, true)
	if err != nil {
		return nil, err
	}
	own, err := ownBox(s.key, handle)
	if err != nil {
		return nil, err
	}
	body, err := own.SealBytes(whole)
	if err != nil {
		return nil, err
	}
	var about sealed.Writer
	about.Text(s.Subject)
	about.Text(s.ProviderID())
	about.Time(s.Created)
	about.Time(s.Seen)
	about.Time(over)
	summary, err := k.cfg.Summaries.SealBytes(about.Bytes(), handle)
	if err != nil {
		return nil, err
	}
	var w sealed.Writer
	w.Number(recordVersion)
	w.Text(string(summary))
	w.Text(string(body))
	return w.Bytes(), nil
}

func splitRecord(value []byte) (summary, body []byte, err error) {
	r := sealed.NewReader(value)
	version := r.Number()
	summary, body = []byte(r.Text()), []byte(r.Text())
	if r.Err() != nil || version != recordVersion {
		return nil, nil, errCodec
	}
	return summary, body, nil
}

// openRecord reads what sealRecord made, with the key that the browser showed.
func openRecord(value []byte, key rp.Secret, handle string) (*Session, error) {
	_, body, err := splitRecord(value)
	if err != nil {
		return nil, err
	}
	own, err := ownBox(key, handle)
	if err != nil {
		return nil, errCodec
	}
	whole, err := own.OpenBytes(body)
	if err != nil {
		return nil, err
	}
	s, err := decode(whole)
	if err != nil {
		return nil, err
	}
	s.key = key
	return s, nil
}

// openSummary reads the part that needs no cookie. The error is an ErrKeys
// when it cannot be told now.
func (k *Stored) openSummary(value []byte, handle string) (*Summary, error) {
	sealedSummary, _, err := splitRecord(value)
	if err != nil {
		return nil, err
	}
	about, err := k.cfg.Summaries.OpenBytes(sealedSummary, handle)
	if err != nil {
		return nil, err
	}
	r := sealed.NewReader(about)
	s := &Summary{Handle: handle, Subject: r.Text(), ProviderID: r.Text(), Created: r.Time(), Seen: r.Time(), Expires: r.Time()}
	if r.Err() != nil {
		return nil, errCodec
	}
	return s, nil
}

// A ticket is what the cookie of a stored session holds under its seal: the
// session's ID, as it was drawn, and its own key. Every request carries it, so
// it is as short as it can be.
func writeTicket(s *Session) ([]byte, error) {
	drawn, ok := drawnID(s.ID)
	if key := s.key.Reveal(); ok && len(key) == keySize {
		return append(drawn, key...), nil
	}
	return nil, errors.New("a session that was not begun here gets no ticket")
}

func readTicket(data []byte) (id string, key rp.Secret, err error) {
	if len(data) != idSize+keySize {
		return "", rp.Secret{}, errCodec
	}
	return idText.EncodeToString(data[:idSize]), rp.NewSecret(string(data[idSize:])), nil
}

// worthless reports whether an error means that something will never open.
func worthless(err error) bool {
	return errors.Is(err, sealed.ErrOpen) || errors.Is(err, errCodec)
}

func storeError(doing string, err error) error { return fmt.Errorf("%w: %s: %w", ErrStore, doing, err) }
