// Command caddy is Caddy with its standard modules and pkce_auth, that with its
// store in Redis, and nothing else.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth"
	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth/redisstore"
)

func main() { caddycmd.Main() }
