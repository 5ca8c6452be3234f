package caddyauth

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/pkce-auth/caddy-pkce-auth/caddyauth/internal/session"
)

// sweepInterval is how often sessions with requests under way are looked at,
// and how old a request is before anybody looks: it was looked at as it came.
// Half a second, so that what goes on without its session does not for longer
// than one.
const sweepInterval = 500 * time.Millisecond

// sweepRegularly sweeps until the configuration is gone, and what is under way
// with it has ended or was taken over.
func (p *relyingParty) sweepRegularly(ctx context.Context) {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for range ticker.C {
		if ctx.Err() != nil && !p.shared.live.judgedBy(p) {
			return
		}
		p.sweep(p.now())
	}
}

// sweepTime bounds what one sweep may ask a store.
const sweepTime = 5 * time.Second

// sweep ends what is under way with sessions that are over by now. Nothing
// else would: a stream makes no further request, at which that is noticed.
func (p *relyingParty) sweep(now time.Time) {
	sessions := p.shared.live.before(p, now.Add(-sweepInterval))
	ctx, cancel := context.WithTimeout(context.Background(), sweepTime)
	defer cancel()
	p.lookForRevocations(ctx, now, len(sessions) > 0)
	p.sayWhatIsFull(now)
	for _, s := range sessions {
		why := p.overdue(s, now)
		if p.sessions.stored != nil && !errors.Is(why, errLoggedOut) {
			s, why = p.overdueInStore(ctx, s, why, now)
		}
		if why != nil {
			p.sayCut(s, p.shared.live.endFor(p, s, why), why)
			continue
		}
		p.refreshForStreams(ctx, s, now)
	}
}

// refreshForStreams gets new tokens for a session that has requests under way,
// as the next request would: who is disabled at the provider does not stay by
// making none. Only where a store keeps what comes of it; a cookie would have
// to wait for the next request.
func (p *relyingParty) refreshForStreams(ctx context.Context, s *session.Session, now time.Time) {
	if p.sessions.stored == nil || !p.policy.refresh || !s.Due(now, p.policy.early) {
		return
	}
	how := p.renewal(p.sessions.stored, s, session.Renew{Do: p.renewTokens}, now)
	how.NoWait = true
	_, _, err := p.shared.refresher.Fresh(ctx, s, how)
	if errors.Is(err, session.ErrEnded) {
		p.endRequests(s, errRefreshing)
	}
}

// lookForRevocations asks what other instances have ended, as often as the store
// may be asked, and only while somebody needs to know: requests, or streams.
func (p *relyingParty) lookForRevocations(ctx context.Context, now time.Time, streams bool) {
	r := p.sessions.revocations
	if !r.Due(now) || !streams && !r.Wanted(now) {
		return
	}
	err := r.Look(ctx)
	if failing := err != nil; p.shared.said.lookFails.Swap(failing) == failing {
		return // that was said
	}
	if err != nil {
		p.logger.Error("it is not heard any longer which sessions other instances end", zap.String("provider", p.name), zap.Error(err),
			zap.String("hint", howToMendStore))
		return
	}
	p.logger.Info("it is heard again which sessions other instances end", zap.String("provider", p.name))
}

// sayWhatIsFull tells of what the bounds of the memory have cost, at most once a
// minute: users who were logged out for no reason that they know, and logouts
// that are not known any more.
func (p *relyingParty) sayWhatIsFull(now time.Time) {
	said := &p.shared.said
	evicted, lost := p.shared.memory.Evicted(), p.shared.revoked.Lost()
	more, less := evicted-said.evicted.Load(), lost-said.lost.Load()
	last := said.full.Load()
	if more == 0 && less == 0 || now.Sub(time.Unix(0, last)).Abs() < time.Minute || !said.full.CompareAndSwap(last, now.UnixNano()) {
		return
	}
	said.evicted.Store(evicted)
	said.lost.Store(lost)
	if more > 0 {
		p.logger.Warn("the memory for sessions is full, and those that were used longest ago were ended", zap.String("provider", p.name), zap.Uint64("sessions", more),
			zap.String("hint", "keep sessions in redis or storage; if one user has most of them (see the admin endpoint's list), end those"))
	}
	if less > 0 && p.sessions.stored == nil { // else it is gone from the store, too
		p.logger.Error("more sessions were ended than can be remembered, and copies of the oldest ones' cookies are good again", zap.String("provider", p.name),
			zap.Uint64("sessions", less), zap.String("hint", "keep sessions in redis, storage or memory, where what is ended is gone; a new cookie_secret ends all sessions"))
	}
}

// cutRevoked cuts what is under way with sessions that are revoked by now.
func (p *relyingParty) cutRevoked() int {
	return p.shared.live.end(errLoggedOut, p.sessions.revocations.Has)
}

// overdueInStore looks into the store before a session that is over as far as is
// known here is taken for over: it may have been used, or refreshed, elsewhere.
// One that is not over, but gone from the store, was ended elsewhere.
//
// The store is asked about every session where it answers from memory, else
// about those that seem to be over: what others end, they leave word of. It
// returns the newest copy that is known by then.
func (p *relyingParty) overdueInStore(ctx context.Context, s *session.Session, why error, now time.Time) (*session.Session, error) {
	if why == nil && !p.sessions.stored.Near() {
		return s, nil
	}
	current, err := p.sessions.stored.Current(ctx, s)
	switch {
	case errors.Is(err, session.ErrNone):
		return s, errLoggedOut
	case err != nil:
		return s, nil //nolint:nilerr // that cannot be told now, and is asked again
	case current != s:
		current = p.shared.live.learn(current)
		return current, p.overdue(current, now)
	default:
		return s, why
	}
}

// overdue is why a session is over at this time; nil if it is not.
//
// A stream is not use: what goes over it does not set back the idle clock,
// as nobody knows whether a person is there. It goes on for as long as the
// session does, by other requests or without. It stays open while its tokens can
// be refreshed.
func (p *relyingParty) overdue(s *session.Session, now time.Time) error {
	switch {
	case p.sessions.revocations.Has(s):
		return errLoggedOut
	case !p.sessions.limits.Alive(s, now):
		return session.ErrEnded
	case !p.client.Admits(&s.Identity):
		return errNoLonger
	case !p.policy.refresh || s.RefreshToken.Empty():
		if !s.TokenAlive(now) {
			return errTokenExpired
		}
	case s.Due(now, p.policy.early):
		if p.shared.refresher.Over(p.flightKey(s), s) {
			return errRefreshing
		}
	}
	return nil
}

// succeeds reports whether this configuration took the place of another: the
// same sessions open for both.
func (p *relyingParty) succeeds(other *relyingParty) bool {
	return other.app.stopped.Load() && !p.app.stopped.Load() && other.sealing.binding == p.sealing.binding
}

// endRequests cuts what is under way with a session, unless a newer copy of
// it is known than the one that is over: it lives on.
func (p *relyingParty) endRequests(s *session.Session, why error) {
	p.sayCut(s, p.shared.live.endSession(s.ID, why, func(newest *session.Session) bool { return newest.Generation <= s.Generation }), why)
}

func (p *relyingParty) sayCut(s *session.Session, requests int, why error) {
	if requests > 0 {
		p.logger.Info("requests under way were cut, for their session has ended", zap.String("provider", p.name),
			zap.String("sub", s.Subject), zap.Int("requests", requests), zap.Error(why))
	}
}
