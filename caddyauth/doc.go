// Package caddyauth puts a login in front of any application: it is the Caddy
// module http.handlers.pkce_auth, with the app pkce_auth that holds the OpenID
// Providers.
//
// # The life of a request
//
//	request
//	 │ endpoint?   endpoints.go   callback, login, session, the logouts and so on: they end here
//	 │ scrub       scrub.go       what the client says about its identity goes
//	 │ bypass?     bypass.go      paths and matchers that need no session
//	 │ session     sessions.go, internal/session: whose it is, and an access token that is good
//	 │ decide      handler.go     pure: forward, login or refuse
//	 ▼
//	 forward → upstream.go: Authorization, identity headers, no cookies of ours
//	 login   → login.go: state, nonce, PKCE; a redirect to the provider
//	 refuse  → errors.go: 401, and where to log in
//
//	callback → callback.go: state, issuer, error, code → one token request →
//	           the ID token's checks → a new session → back to where the user
//	           wanted to go
//
// # Which file to open for what
//
//	app.go provider.go address.go registration.go authorization.go claimsconfig.go sessionconfig.go   the JSON configuration, and its documentation
//	handler.go                             the handler, and the policy of a route
//	caddyfile.go options*.go collisions.go suggest.go                     the Caddyfile
//	relyingparty.go runtime.go calls.go    a provider's configuration at work, and what outlives it
//	origin.go cookies.go endpoints.go      where we are: origins, names, paths
//	navigation.go returnto.go bypass.go    decisions about a request, pure
//	admission.go crosssite.go              who may pass with a session, and from where
//	ask.go stepup.go                       what a route wants of a login
//	login.go loginstate.go callback.go formpost.go flights.go logout.go   the flow
//	silent.go                              a login that must not show anything, as in a frame
//	sessions.go                            a session's life between login and logout
//	sessioninfo.go                         what pages of this site may know of it
//	bearer.go verify.go                    who has no browser: API clients, and a proxy in front that asks
//	tokens.go upstreamconfig.go tokenlogin.go refusals.go      which token goes upstream, and how a session gets it
//	scrub.go upstream.go response.go authstate.go             the border to the upstream
//	rejected.go challenges.go retry.go     when the upstream does not take the access token
//	live.go lifeline.go livecontext.go websocket.go sweep.go  what is under way ends with its session
//	replay.go replayread.go replaykept.go replaypage.go       a form that survives a login
//	errors.go errorendpoint.go pages.go notes.go metrics.go   when it does not work
//	backchannel.go admin.go                who else ends sessions: the provider, and an operator
//	exit.go                                what the end of the process waits for
//	secrets.go keys.go                     secrets, and keys that make themselves
//	stores.go store_storage*.go            where sessions are kept, and revocations
//
// Below this package, nothing knows of Caddy: internal/rp is the protocol,
// internal/session what a session is and how it is kept, internal/sealed and
// internal/claims the leaves they stand on. The package store is the contract
// of what keeps sessions, for others' stores, too; redisstore is one such.
package caddyauth
