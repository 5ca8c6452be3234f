package session

import "context"

// refreshMain refreshes the token of the login.
func (k *Stored) refreshMain(ctx context.Context, s *Session, do func(context.Context, *Session) (*Session, error)) (*Session, error) {
	return k.Refresh(ctx, s, Renew{Do: do})
}

func (k *Stateless) refreshMain(ctx context.Context, s *Session, do func(context.Context, *Session) (*Session, error)) (*Session, error) {
	return k.Refresh(ctx, s, Renew{Do: do})
}
