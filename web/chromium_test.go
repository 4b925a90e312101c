package web_test

import (
	"image"
	"image/color"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/e2e/berthtest"
)

// chromium runs the browser on a page: flags say what for.
func chromium(t *testing.T, page string, flags ...string) (stdout, stderr string) {
	t.Helper()
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr",
		"--user-data-dir=" + t.TempDir(),
	}, append(flags, page)...)
	out, errOut, err := berthtest.NewCommand(t, "chromium").Within(time.Minute).Try(args...)
	if err != nil {
		t.Fatalf("chromium %s: %v\n%s", page, err, errOut)
	}
	return out, errOut
}

// shoot takes a picture of a page.
func shoot(t *testing.T, page, size string, flags ...string) image.Image {
	t.Helper()
	path := filepath.Join(t.TempDir(), "page.png")
	if dir := os.Getenv("BERTH_SCREENSHOTS"); dir != "" { // to look at them
		path = filepath.Join(dir, strings.ReplaceAll(t.Name(), "/", "-")+size+".png")
	}
	_, log := chromium(t, page, append(flags, "--screenshot="+path, "--window-size="+size)...)
	// What a browser refuses to load, or finds wrong, it says on its console.
	for line := range strings.Lines(log) {
		if strings.Contains(line, "CONSOLE") {
			t.Errorf("chromium says: %s", line)
		}
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return picture
}

// In a real browser the style sheet is taken, the policy refuses nothing that the
// pages need, and they are dark for those who like it.
func TestChromium(t *testing.T) {
	s := newSite(t, false, nil)
	b := s.signedIn(berthtest.Alice)
	b.send("/tokens", map[string]string{"note": "laptop", "repos": "team/* other/a-rather-long-name-of-a-repository/app"})
	b.want(http.StatusCreated)
	made := b.page.Body
	_, _, err := s.accounts.CreateKey(t.Context(), accounts.NewKey{
		Account: "test/alice@example.com", Source: "oidc:test", Expires: time.Now().Add(time.Hour), Note: "CI of team/app",
	})
	s.must(err)
	s.pass(2 * time.Hour)
	alice := s.as(b, made)

	dom, _ := chromium(t, alice+"/", "--dump-dom")
	for _, text := range []string{"test/alice@example.com", "Your account", "CI of team/app", "expired", "Sign out"} {
		if !strings.Contains(dom, text) {
			t.Errorf("the page lacks %q:\n%s", text, dom)
		}
	}
	light, dark := color.RGBA{0xf6, 0xf7, 0xf9, 0xff}, color.RGBA{0x12, 0x16, 0x1c, 0xff}
	const darkFlag, lightFlag = "--blink-settings=preferredColorScheme=0", "--blink-settings=preferredColorScheme=1"
	for _, tt := range []struct {
		name, page, size, flag string
		want                   color.RGBA
	}{
		{"home", s.URL + "/", "1000,900", lightFlag, light},
		{"login", s.URL + "/login", "1000,700", lightFlag, light},
		{"account", alice + "/", "1000,1500", lightFlag, light},
		{"account dark", alice + "/", "1000,1500", darkFlag, dark},
		{"account on a phone", alice + "/", "390,1700", lightFlag, light},
		{"new key on a phone", alice + "/made", "390,1000", lightFlag, light},
		{"message dark", s.URL + "/nothing", "500,500", darkFlag, dark},
	} {
		t.Run(tt.name, func(t *testing.T) {
			picture := shoot(t, tt.page, tt.size, tt.flag)
			at := image.Pt(2, picture.Bounds().Max.Y-2)
			if got := color.RGBAModel.Convert(picture.At(at.X, at.Y)); got != tt.want {
				t.Errorf("the ground is %v, want %v", got, tt.want)
			}
		})
	}
}

// as is the URL of a proxy through which everybody has the cookies of b, and where
// the answer to a form that was sent is at /made.
func (s *site) as(b *browser, made string) string {
	s.t.Helper()
	to, err := url.Parse(s.URL)
	s.must(err)
	p := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		for name, value := range b.cookies() {
			r.Out.AddCookie(&http.Cookie{Name: name, Value: value})
		}
	}}
	mux := http.NewServeMux()
	mux.Handle("/", p)
	mux.HandleFunc("/made", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, made) })
	proxy := httptest.NewServer(mux)
	s.t.Cleanup(proxy.Close)
	return proxy.URL
}
