package session

import "github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/rp"

// EncodeHint writes a session's ID token, for storage under a seal and apart
// from the session: only the logout needs it. It is bound to the session.
func EncodeHint(s *Session) ([]byte, error) {
	var w packer
	writeID(&w, s.ID)
	writeToken(&w, s.IDToken)
	return w.pack()
}

// DecodeHint gives the ID token that EncodeHint wrote for the session of that
// ID; the empty one if it is another's.
func DecodeHint(data []byte, id string) rp.Secret {
	r, err := unpack(data)
	if err != nil {
		return rp.Secret{}
	}
	defer r.release()
	of, token := readID(r), readToken(r)
	if r.Err() != nil || of != id {
		return rp.Secret{}
	}
	return rp.NewSecret(token)
}
