package gate_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/auth"
	"github.com/berth-registry/berth/auth/accounts"
	"github.com/berth-registry/berth/auth/gate"
)

// Nothing that proves who somebody is gets into the log, an event or an answer to
// somebody else, whatever the way it came and whatever became of it.
func TestNoSecrets(t *testing.T) {
	t.Parallel()
	var source *broken
	w := newWorld(t, func(_ *world, o *gate.Options) {
		source = &broken{Source: o.Sources[1]}
		o.Sources = []auth.Source{o.Sources[0], source}
	})
	_, key := w.key(accounts.NewKey{Account: "robot"})
	job, late := w.jobs.idToken(t, "acme/web", time.Now().Add(time.Hour)), w.jobs.idToken(t, "acme/web", time.Now().Add(-time.Hour))
	const guess = "hunter2-a-guess"
	in := w.get("/token?offline_token=true", basic("alice", alicePass))
	token, refresh := in.field(t, "token"), in.field(t, "refresh_token")
	secrets := []string{alicePass, htPass, guess, key, key[strings.LastIndexByte(key, '_'):], job, late, token, refresh}
	hidden := secrets
	for _, s := range secrets[:3] {
		hidden = append(hidden, base64.StdEncoding.EncodeToString([]byte("alice:"+s)), url.QueryEscape(s))
	}

	var answers lockedBuffer
	note := func(r reply) {
		if r.status != http.StatusOK {
			_ = json.NewEncoder(&answers).Encode([]any{string(r.body), r.header})
		}
	}
	send := func(s string) {
		headers := []string{basic("alice", s), basic("token", s), basic("", s), "Bearer " + s, "Basic " + s, s}
		name := "alice"
		if len(s) > 40 { // not what one types
			name = s
			headers = append(headers, basic(s, guess))
		}
		paths := []string{"/v2/", "/api/x", "/token?scope=repository:team/a:pull"}
		for i, a := range headers {
			req := w.request(http.MethodGet, paths[i%len(paths)], nil)
			req.Header.Set("Authorization", a)
			note(w.do(req))
		}
		for _, form := range []url.Values{
			{"grant_type": {"password"}, "username": {name}, "password": {s}},
			{"grant_type": {"password"}, "username": {name}, "password": {s}, "service": {s}},
			{"grant_type": {"refresh_token"}, "refresh_token": {s}},
			{"grant_type": {s}},
			{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {s}, "subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}},
		} {
			note(w.post(form))
		}
	}
	run := func(t *testing.T) {
		for _, s := range secrets {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				send(s)
			})
		}
	}
	t.Run("up", run)
	source.down = true
	w.pass(2 * time.Hour)
	t.Run("down", run)

	var events strings.Builder
	for _, e := range w.recorded() {
		ok(t, json.NewEncoder(&events).Encode(struct {
			Event, Actor any
		}{e, e.Actor}))
	}
	if events.Len() == 0 || w.logs.String() == "" || answers.String() == "" {
		t.Fatal("nothing was recorded")
	}
	for what, text := range map[string]string{"log": w.logs.String(), "events": events.String(), "answers": answers.String()} {
		for _, s := range hidden {
			escaped, err := json.Marshal(s)
			ok(t, err)
			if strings.Contains(text, s) || strings.Contains(text, string(escaped[1:len(escaped)-1])) {
				at := max(0, strings.Index(text, s)-200)
				t.Errorf("the %s tell %q: …%s", what, s, text[at:min(len(text), at+500)])
			}
		}
	}
}
