package deploy

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
)

func TestVersions(t *testing.T) {
	of := func(edit ...func(*Service)) string {
		t.Helper()
		s := shop(web("app:1", 2, edit...), web("db:1", 1, named("db")))
		v, err := versions(&s)
		if err != nil {
			t.Fatal(err)
		}
		return v["web"]
	}
	same := of()
	for name, edit := range map[string]func(*Service){
		"replicas":                    func(s *Service) { s.Replicas = 9 },
		"strategy":                    func(s *Service) { s.Strategy, s.Steps = Canary, []CanaryStep{{Weight: 5}} },
		"update":                      func(s *Service) { s.Update = Update{Monitor: time.Hour} },
		"ports":                       func(s *Service) { s.Ports = nil },
		"routes":                      func(s *Service) { s.Routes = []Route{{Port: 80}} },
		"drain":                       func(s *Service) { s.Drain, s.StopGrace = time.Hour, time.Hour },
		"aliases":                     func(s *Service) { s.Container.NetworkingConfig.EndpointsConfig["shop_default"].Aliases = []string{"x"} },
		"condition":                   func(s *Service) { s.Needs = []Need{{Service: "db", Condition: NeedHealthy}} },
		"the name that was asked for": func(s *Service) { s.Image = "app:latest" },
		"published as the container's": func(s *Service) {
			s.Container.HostConfig.PortBindings = network.PortMap{network.MustParsePort("80"): nil}
		},
	} {
		if of(edit) != same {
			t.Errorf("%s makes another version", name)
		}
	}
	seen := map[string]string{same: "nothing"}
	for name, edit := range map[string]func(*Service){
		"image":     func(s *Service) { s.Container.Image = "app:2" },
		"command":   func(s *Service) { s.Container.Cmd = []string{"x"} },
		"label":     labels("a", "b"),
		"memory":    func(s *Service) { s.Container.HostConfig.Memory = 1 << 20 },
		"network":   func(s *Service) { s.Container.NetworkingConfig.EndpointsConfig["other"] = nil },
		"health":    func(s *Service) { s.Container.Healthcheck = nil },
		"job":       func(s *Service) { s.Job = true },
		"platform":  func(s *Service) { s.Platform = "linux/arm64" },
		"file":      func(s *Service) { s.Files = []File{{Target: "/f", Content: digestOf("1")}} },
		"content":   func(s *Service) { s.Files = []File{{Target: "/f", Content: digestOf("2")}} },
		"file mode": func(s *Service) { s.Files = []File{{Target: "/f", Content: digestOf("1"), Mode: 0o400}} },
		"restart":   func(s *Service) { s.Needs = []Need{{Service: "db", Restart: true}} },
	} {
		v := of(edit)
		if other, ok := seen[v]; ok {
			t.Errorf("%s makes the same version as %s", name, other)
		}
		seen[v] = name
	}
}

// The tag that was asked for is for people: what runs is named by its digest.
func TestReadable(t *testing.T) {
	d := "@" + digestOf("x").String()
	for _, test := range []struct{ pinned, asked, want string }{
		{"web" + d, "web:1", "web:1" + d},
		{"localhost:5000/a/web" + d, "localhost:5000/a/web:v1.2", "localhost:5000/a/web:v1.2" + d},
		{"localhost:5000/web" + d, "localhost:5000/web", "localhost:5000/web" + d},
		{"web" + d, "docker.io/library/web:1" + d, "web:1" + d},
		{"web:0" + d, "web:1", "web:1" + d},
		{"sha256:0123", "web:1", "sha256:0123"},
	} {
		if got := readable(test.pinned, test.asked); got != test.want {
			t.Errorf("%s of %s: got %s, want %s", test.pinned, test.asked, got, test.want)
		}
	}
}

func TestPlan(t *testing.T) {
	rolling := func(s *Service) { s.Strategy, s.Update.Parallelism = Rolling, 1 }
	canary := func(s *Service) { s.Strategy, s.Steps = Canary, []CanaryStep{{Weight: 10, Pause: time.Minute}} }
	before := shop(web("app:1", 2), web("db:1", 1, named("db")), web("old:1", 1, named("old")))
	for name, test := range map[string]struct {
		from, to Stack
		edit     func(o *observed)
		want     string
	}{
		"first": {Stack{}, shop(web("app:1", 2)), nil, `
network  shop_default
volume   shop_data
pull     web           (app:1)
create   web           shop-web-r4-1 shop-web-r4-2 (has to hold for 2s)
switch                 (revision 4 takes the traffic of the stack)
gate     web           (has to hold for 2s)
`},
		"nothing": {before, before, nil, `
keep    web  shop-web-r1-1 shop-web-r1-2
keep    db   shop-db-r1-1
keep    old  shop-old-r1-1
switch       (revision 4 takes the traffic of the stack)
`},
		"one is replaced, and one goes": {before, shop(web("app:2", 2), web("db:1", 1, named("db"))), nil, `
create  web  shop-web-r4-1 shop-web-r4-2 (has to hold for 2s)
keep    db   shop-db-r1-1
switch       (revision 4 takes the traffic of the stack)
gate    web  (has to hold for 2s)
stop    web  shop-web-r1-1 shop-web-r1-2 (drained for 10s at most)
stop    old  shop-old-r1-1 (drained for 10s at most)
`},
		"scale and rolling": {before, shop(web("app:1", 3), web("db:2", 1, named("db"), rolling), web("old:1", 0, named("old"))), nil, `
keep     web  shop-web-r1-1 shop-web-r1-2
create   web  shop-web-r4-3 (has to hold for 2s)
replace  db   shop-db-r4-1 (1 at a time, stop first)
switch        (revision 4 takes the traffic of the stack)
gate     db   (has to hold for 2s)
stop     old  shop-old-r1-1 (drained for 10s at most)
`},
		"canary, with kept containers": {before, shop(web("app:2", 1, canary), web("db:1", 1, named("db")), web("old:1", 1, named("old"))), func(o *observed) {
			kept := shop(web("app:2", 1, canary))
			v, _ := versions(&kept)
			o.found = append(o.found, replica{ID: "k", Name: "shop-web-r0-1", Service: "web", Version: v["web"], Number: 1, State: container.StateExited})
		}, `
start   web  shop-web-r0-1 (has to hold for 2s)
keep    db   shop-db-r1-1
keep    old  shop-old-r1-1
switch  web  (10 % for 1m0s)
switch       (revision 4 takes the traffic of the stack)
gate    web  (has to hold for 2s)
stop    web  shop-web-r1-1 shop-web-r1-2 (drained for 10s at most)
`},
		"a job": {before, shop(web("app:1", 2), web("db:1", 1, named("db")), web("old:1", 1, named("old"), func(s *Service) { s.Job = true })), nil, `
keep    web  shop-web-r1-1 shop-web-r1-2
keep    db   shop-db-r1-1
job     old  shop-old-r4-1
switch       (revision 4 takes the traffic of the stack)
stop    old  shop-old-r1-1 (drained for 10s at most)
`},
	} {
		o := observed{networks: map[string]bool{}, volumes: map[string]bool{}, images: map[string]string{}}
		if test.from.Name != "" {
			v, err := versions(&test.from)
			if err != nil {
				t.Fatal(err)
			}
			o.from = &versioned{Stack: &test.from, Versions: v}
			for _, svc := range test.from.Services {
				o.images[svc.Name] = "here"
				for n := range svc.Replicas {
					o.found = append(o.found, replica{
						ID: svc.Name + string(rune('a'+n)), Name: containerName("shop", svc.Name, 1, n+1), Service: svc.Name,
						Version: v[svc.Name], Number: n + 1, Revision: 1, State: container.StateRunning,
					})
				}
			}
			o.networks["shop_default"], o.volumes["shop_data"] = true, true
		}
		if test.edit != nil {
			test.edit(&o)
		}
		v, err := versions(&test.to)
		if err != nil {
			t.Fatal(err)
		}
		p, err := planOf(o, &versioned{Stack: &test.to, Versions: v}, 4)
		if err != nil {
			t.Fatal(err)
		}
		if got := "\n" + p.String(); got != test.want {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

// A plan says what the deployment then does.
func TestPlanIsDone(t *testing.T) {
	in(t, func(t *testing.T, w *world) {
		w.mustDeploy(shop(web("app:1", 2), web("db:1", 1, named("db"))))
		to := shop(web("app:2", 3), web("db:1", 1, named("db")))
		p, err := w.Plan(t.Context(), Request{Stack: to})
		w.must(err)
		w.mustDeploy(to)
		w.settle()
		var made []string
		for _, s := range p.Steps {
			if s.Kind == StepCreate || s.Kind == StepKeep {
				for _, c := range s.Containers {
					made = append(made, strings.TrimPrefix(c, "shop-"))
				}
			}
		}
		slices.Sort(made)
		w.is("running", w.running(), strings.Join(made, " "))
	})
}

func TestPinning(t *testing.T) {
	for ref, want := range map[string][2]string{
		"app": {"app", "docker.io"}, "app:1": {"app", "docker.io"}, "a/b@sha256:1": {"a/b", "docker.io"},
		"localhost:5000/a:1": {"localhost:5000/a", "localhost:5000"}, "r.example.com/a/b": {"r.example.com/a/b", "r.example.com"},
		"localhost:5000/a": {"localhost:5000/a", "localhost:5000"}, "a:1@sha256:2": {"a", "docker.io"},
	} {
		if got := [2]string{repository(ref), registryOf(ref)}; got != want {
			t.Errorf("%s: %q", ref, got)
		}
	}
	in(t, func(t *testing.T, w *world) {
		s := web("remote/app:1", 1)
		s.Pull = PullNever
		if _, err := w.deploy(shop(s)); err == nil {
			t.Error("it is pulled")
		}
		s.Pull, s.Digest = PullMissing, digestOf("asked for")
		rev := w.mustDeploy(shop(s))
		if rev.Images["web"] != s.Digest {
			t.Errorf("%+v", rev)
		}
		if want := "remote/app@" + s.Digest.String(); !slices.Equal(w.engine.pulled, []string{want}) {
			t.Errorf("pulled %q, want %q", w.engine.pulled, want)
		}
	})
}
