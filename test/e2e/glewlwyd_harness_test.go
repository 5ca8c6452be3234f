package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// glewlwydSecret is that of its confidential client.
const glewlwydSecret = "secret-secret-secret-secret-secret"

// newGlewlwydWorld is newWorld with Glewlwyd for the provider. As Debian wants
// it, the server in front serves its pages.
func newGlewlwydWorld(t *testing.T, accessTokenLifetime time.Duration, directives string) *world {
	t.Helper()
	const share = "/usr/share/glewlwyd/"
	pages := http.NewServeMux()
	pages.Handle("/", http.FileServer(http.Dir(share+"webapp")))
	// Debian's link to this file leads to a folder.
	pages.HandleFunc("/config.json", func(rw http.ResponseWriter, r *http.Request) {
		http.ServeFile(rw, r, share+"templates/config.json")
	})
	w := &world{t: t, upstream: newUpstream(t), front: newFront(t, pages)}
	w.issuer = w.front.server.URL + "/api/oidc"
	w.startCaddy("https://localhost:0", directives)
	startGlewlwyd(t, w)
	setUpGlewlwyd(t, w, accessTokenLifetime)
	close(w.front.open)
	w.ready()
	return w
}

// startGlewlwyd starts a Glewlwyd with a database in which there is only its
// administrator.
func startGlewlwyd(t *testing.T, w *world) {
	t.Helper()
	const modules = "/usr/lib/glewlwyd"
	dir := t.TempDir()
	database := filepath.Join(dir, "db")
	schema, err := os.Open("/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3")
	if err != nil {
		t.Fatal(err)
	}
	defer schema.Close()
	create := exec.Command("sqlite3", database)
	create.Stdin = schema
	if out, err := create.CombinedOutput(); err != nil {
		t.Fatalf("creating the database: %v\n%s", err, out)
	}
	file := filepath.Join(dir, "glewlwyd.conf")
	own := "profile_of_" + filepath.Base(filepath.Dir(dir))
	w.idp = w.front.serve(t, func(address string) []string {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			t.Fatal(err)
		}
		config := fmt.Sprintf(`
			port = %s
			bind_address = "127.0.0.1"
			external_url = %q
			login_url = "login.html"
			api_prefix = "api"
			cookie_secure = 0
			session_key = "GLEWLWYD2_SESSION_ID"
			log_mode = "console"
			log_level = "WARNING"
			admin_scope = "g_admin"
			profile_scope = %q
			user_module_path = "`+modules+`/user"
			user_middleware_module_path = %q
			client_module_path = "`+modules+`/client"
			user_auth_scheme_module_path = "`+modules+`/scheme"
			plugin_module_path = "`+modules+`/plugin"
			hash_algorithm = "SHA512"
			database = { type = "sqlite3", path = %q }
		`, port, w.front.server.URL, own, t.TempDir(), database)
		if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		return []string{"glewlwyd", "--config-file=" + file}
	}, "/config", own)
}

// setUpGlewlwyd does what an administrator does on Glewlwyd's pages, by the
// interface that those use: scopes that need a password, the OpenID Connect
// plugin, a user and two clients.
func setUpGlewlwyd(t *testing.T, w *world, accessTokenLifetime time.Duration) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	block := func(kind string, der []byte) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	}
	scopes := []string{"openid", "profile", "email", "offline_access"}
	api := glewlwydAPI(t, w)
	type object = map[string]any
	api("POST", "/auth/", object{"username": "admin", "password": "password"})
	// The property in which Glewlwyd looks for where a logout may lead; the one
	// in its form has another name.
	clients := api("GET", "/mod/client/database", nil)
	formats := clients["parameters"].(object)["data-format"].(object)
	formats["post_logout_redirect_uris"] = object{"multiple": true, "read": true, "write": true}
	api("PUT", "/mod/client/database", clients)
	api("PUT", "/mod/client/database/reset", nil)
	for _, scope := range scopes {
		settings := object{"name": scope, "display_name": scope, "description": scope, "password_required": true, "password_max_age": 0, "scheme": object{}}
		if scope == "openid" { // is there already
			api("PUT", "/scope/openid", settings)
		} else {
			api("POST", "/scope/", settings)
		}
	}
	api("POST", "/mod/plugin/", object{"module": "oidc", "name": "oidc", "display_name": "OIDC", "enabled": true, "parameters": object{
		"iss":      w.issuer,
		"jwt-type": "rsa", "jwt-key-size": "256",
		"key": block("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)), "cert": block("PUBLIC KEY", public),
		"code-duration": 60, "access-token-duration": accessTokenLifetime.Seconds(),
		"refresh-token-duration": 1209600, "refresh-token-rolling": true, "refresh-token-one-use": "always",
		"auth-type-code-enabled": true, "auth-type-refresh-enabled": true, "auth-type-id-token-enabled": true,
		"auth-type-client-enabled": false, "auth-type-implicit-enabled": false, "auth-type-password-enabled": false, "auth-type-token-enabled": false,
		"subject-type": "public", "allowed-scope": scopes, "restrict-scope-client-property": "",
		"pkce-allowed": true, "pkce-required": true, "pkce-method-plain-allowed": false,
		"session-management-allowed": true, "session-cookie-name": "GLEWLWYD2_OIDC_SID", "session-cookie-expiration": 2419200,
		"front-channel-logout-allowed":     true,
		"introspection-revocation-allowed": true, "introspection-revocation-allow-target-client": true,
		"name-claim": "mandatory", "email-claim": "mandatory", "scope-claim": "no", "claims": []string{},
	}})
	api("POST", "/user/", object{
		"username": "alice", "name": "User alice", "email": "alice@example.test", "password": "password", "scope": scopes, "enabled": true,
	})
	for _, more := range []object{
		{"client_id": "public", "confidential": false},
		{"client_id": "confidential", "confidential": true, "client_secret": glewlwydSecret, "token_endpoint_auth_method": []string{"client_secret_basic"}},
	} {
		more["name"] = "The site, as " + more["client_id"].(string)
		more["enabled"] = true
		more["scope"] = []string{}
		more["authorization_type"] = []string{"code", "refresh_token"}
		more["redirect_uri"] = []string{w.site + "/oauth2/callback"}
		more["post_logout_redirect_uris"] = []string{w.site + "/oauth2/signed-out"}
		api("POST", "/client/", more)
	}
}

// glewlwydAPI gives a function for requests of the administrator.
func glewlwydAPI(t *testing.T, w *world) func(method, path string, body any) map[string]any {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	return func(method, path string, body any) map[string]any {
		t.Helper()
		data, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		req, err := http.NewRequest(method, w.front.behind()+"/api"+path, bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		data, err = io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, data)
		}
		var answer map[string]any
		_ = json.Unmarshal(data, &answer) // most have none
		return answer
	}
}

// glewlwydAsks waits for Glewlwyd's own login form.
func glewlwydAsks(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	asks(t, ctx, w.issuer, "username", "password")
}

// glewlwydLogIn fills in that form, and consents to all that is asked for.
func glewlwydLogIn(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	glewlwydAsks(t, ctx, w)
	do(t, ctx,
		chromedp.SendKeys(css(`input[name=username]`), "alice"), chromedp.SendKeys(css(`input[name=password]`), "password"),
		chromedp.Click(css(`button[type=submit]`)), chromedp.WaitVisible(css(`#grant-email`)),
	)
	for _, scope := range []string{"profile", "email", "offline_access"} {
		do(t, ctx, chromedp.Click(css(`#grant-`+scope)))
	}
	do(t, ctx, chromedp.Click(css(`.card-body button.btn-primary`)), chromedp.WaitNotPresent(css(`#grant-email`)))
	glewlwydContinues(t, ctx, w)
}

// glewlwydContinues uses the button that leads back to the site, for a user
// whom Glewlwyd knows.
func glewlwydContinues(t *testing.T, ctx context.Context, w *world) {
	t.Helper()
	shows(t, ctx, quote(w.issuer)+`.startsWith(location.origin) && document.querySelector(".card-footer button.btn-success")`)
	do(t, ctx, chromedp.Click(css(`.card-footer button.btn-success`)))
}
