package e2e

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// A person fills in a form, with a file, for longer than the session lasts, and
// sends it: it survives the login, byte for byte, is asked about, and goes
// upstream once. A fetch of the same page gets 401.
func TestPostSurvivesTheLoginInChromium(t *testing.T) {
	const idle = 5 * time.Second
	w := newWorld(t, "https://localhost:0", `
		tls internal
		pkce_auth {
			issuer $ISSUER
			client_id public
			replay_posts 1MB
			session {
				idle `+idle.String()+`
			}
		}
		reverse_proxy $UPSTREAM
	`)
	file := filepath.Join(t.TempDir(), "receipt.bin")
	content := bytes.Repeat([]byte("\x00\xff\r\n--boundary\r\n"), 20_000)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	browser := newBrowser(t)
	do(t, browser, chromedp.Navigate(w.site+"/expenses/new?year=2026"))
	logIn(t, browser, "alice")
	arrives(t, browser, w.site+"/expenses/new?year=2026")
	run(t, browser, chromedp.Evaluate[bool](`document.body.insertAdjacentHTML("beforeend",
		'<form method="post" enctype="multipart/form-data" action="/expenses/(new)?by=\'hand\'&x=%20">' +
		'<input name="what"><input type="file" name="receipt"><button>send</button></form>'), true`))
	do(t, browser, chromedp.SendKeys(css(`input[name=what]`), "Straße & <lunch>"), chromedp.SetUploadFiles(css(`input[type=file]`), []string{file}))
	time.Sleep(idle + 200*time.Millisecond)
	if status := run(t, browser, chromedp.Evaluate[int](`fetch("/expenses", {method: "POST", body: "x=1"}).then((r) => r.status)`, chromedp.EvalAwaitPromise)); status != 401 {
		t.Errorf("a fetch got %d", status)
	}
	do(t, browser, chromedp.Click(css(`form button`)))
	const asked = `document.querySelector("h1")?.innerText === "Send your form again?"`
	shows(t, browser, asked)
	if got := w.upstream.count("/expenses/(new)"); got != 0 {
		t.Fatalf("the upstream got it %d times before the click", got)
	}
	screenshot(t, browser, "page-send-again")
	dark(t, browser, true)
	screenshot(t, browser, "page-send-again-dark")
	dark(t, browser, false)
	do(t, browser, chromedp.Navigate(w.site+"/oauth2/replay"))
	shows(t, browser, asked)
	do(t, browser, chromedp.Click(css(`form button`)))
	arrives(t, browser, w.site+"/expenses/(new)?by=%27hand%27&x=%20")
	if got := run(t, browser, chromedp.Text(css(`#upstream`))); got != "POST /expenses/(new)?by=%27hand%27&x=%20" {
		t.Errorf("the page shows %q", got)
	}
	r := w.upstream.last(t, "/expenses/(new)")
	if err := r.ParseMultipartForm(1 << 20); err != nil {
		t.Fatalf("the upstream got %v: %v", r.Header, err)
	}
	receipt, header, err := r.FormFile("receipt")
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(receipt)
	if err != nil || !bytes.Equal(got, content) || header.Filename != "receipt.bin" || r.FormValue("what") != "Straße & <lunch>" {
		t.Errorf("the upstream got %q, a file %s of %d bytes, %v", r.FormValue("what"), header.Filename, len(got), err)
	}

	// Back to our page, and once more.
	do(t, browser, chromedp.Navigate(w.site+"/oauth2/replay"))
	shows(t, browser, `document.querySelector("h1")?.innerText === "Your form was sent"`)
	screenshot(t, browser, "page-form-was-sent")
	if got := w.upstream.count("/expenses/(new)"); got != 1 {
		t.Errorf("the upstream got it %d times", got)
	}
}
