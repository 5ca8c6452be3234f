// Command caddy is Caddy with its standard modules and pkce_auth, nothing
// else.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/pkce-auth/caddy-pkce-auth/caddyauth"
)

func main() { caddycmd.Main() }
