package build

import (
	"errors"
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/moby/buildkit/client"
	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

func TestSolveRequest(t *testing.T) {
	one, empty := "1", ""
	for _, c := range []struct {
		name string
		req  runner.BuildRequest
		want map[string]string // beside the mode of resolution
	}{
		{"nothing", runner.BuildRequest{}, nil},
		{"the context is the session's", runner.BuildRequest{Remote: "client-session"}, nil},
		{"it is elsewhere", runner.BuildRequest{Remote: "https://x/y.git"}, map[string]string{"context": "https://x/y.git"}},
		{"it is here", runner.BuildRequest{Remote: "x", Context: strings.NewReader("")}, nil},
		{
			"all the rest",
			runner.BuildRequest{
				Dockerfile: "d/F", Target: "t", Platform: "linux/arm64", NoCache: true, NoSyntax: true,
				Args: map[string]*string{"A": &one, "B": &empty, "C": nil}, Labels: map[string]string{"l": "v"},
				NetworkMode: "none", ExtraHosts: []string{"a:1.2.3.4", "b:[::1]", "c:fd00::1"}, ShmSize: 7,
				Ulimits:      []*container.Ulimit{{Name: "nproc", Soft: 1, Hard: 2}, {Name: "core", Soft: -1, Hard: -1}},
				CgroupParent: "/p", Memory: 1, MemorySwap: -1, CPUShares: 2, CPUPeriod: 3, CPUQuota: 4, CPUSetCPUs: "0", CPUSetMems: "1",
			},
			map[string]string{
				"filename": "d/F", "target": "t", "platform": "linux/arm64", "no-cache": "", "cmdline": "",
				"build-arg:A": "1", "build-arg:B": "", "label:l": "v",
				"force-network-mode": "none", "add-hosts": "a=1.2.3.4,b=::1,c=fd00::1", "shm-size": "7", "ulimit": "core=-1:-1,nproc=1:2",
				"cgroup-parent": "/p", "memory": "1", "memswap": "-1", "cpushares": "2", "cpuperiod": "3", "cpuquota": "4", "cpusetcpus": "0", "cpusetmems": "1",
			},
		},
	} {
		got, err := solveRequest(c.req)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		want := map[string]string{"image-resolve-mode": "default"}
		maps.Copy(want, c.want)
		if !reflect.DeepEqual(got.FrontendAttrs, want) {
			t.Errorf("%s: attributes\n%v\nwant\n%v", c.name, got.FrontendAttrs, want)
		}
	}
}

func TestSolveRequestGoesSomewhere(t *testing.T) {
	on := "true"
	got, err := solveRequest(runner.BuildRequest{
		Names: []string{"a", "b:1"}, Pull: true, NetworkMode: "host", CacheFrom: []string{"c"}, Args: map[string]*string{"BUILDKIT_INLINE_CACHE": &on},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Exporters) != 1 || got.Exporters[0].Type != "moby" || got.Exporters[0].Attrs["name"] != "a,b:1" {
		t.Errorf("it goes to %v", got.Exporters)
	}
	if got.FrontendAttrs["image-resolve-mode"] != "pull" || !reflect.DeepEqual(got.Entitlements, []string{"network.host"}) {
		t.Errorf("it may %v, with %v", got.Entitlements, got.FrontendAttrs)
	}
	if len(got.Cache.Exports) != 1 || got.Cache.Exports[0].Type != "inline" || len(got.Cache.Imports) != 1 || got.Cache.Imports[0].Attrs["ref"] != "c" {
		t.Errorf("the cache is %v", got.Cache)
	}
	got, err = solveRequest(runner.BuildRequest{Names: []string{"a"}, Outputs: []runner.BuildOutput{{Type: "local", Attrs: map[string]string{"dest": "d"}}}})
	if err != nil || len(got.Exporters) != 1 || got.Exporters[0].Type != "local" || got.Exporters[0].Attrs["name"] != "" {
		t.Errorf("files go to %v, %v", got.Exporters, err)
	}
}

func TestSolveRequestRefuses(t *testing.T) {
	for _, req := range []runner.BuildRequest{
		{NetworkMode: "container:x"}, {ExtraHosts: []string{"a"}}, {ExtraHosts: []string{":1.2.3.4"}}, {ExtraHosts: []string{"a:b"}},
	} {
		if _, err := solveRequest(req); !errors.Is(err, runner.ErrInvalid) {
			t.Errorf("%+v: %v", req, err)
		}
	}
}

func TestPruneInfo(t *testing.T) {
	hourAgo := time.Now().Add(-time.Hour).Format(time.RFC3339)
	for _, c := range []struct {
		filters runner.Filters
		want    client.PruneInfo
		bad     bool
	}{
		{nil, client.PruneInfo{}, false},
		{runner.Filters{"until": {"2h"}}, client.PruneInfo{KeepDuration: 2 * time.Hour}, false},
		{runner.Filters{"until": {hourAgo}}, client.PruneInfo{KeepDuration: time.Hour}, false},
		{runner.Filters{"id": {"x"}, "type": {"regular"}}, client.PruneInfo{Filter: []string{"id~=x,type==regular"}}, false},
		{runner.Filters{"shared": {"false"}, "inuse": {"0"}}, client.PruneInfo{Filter: []string{"private"}}, false},
		{runner.Filters{"private": {}}, client.PruneInfo{Filter: []string{"private"}}, false},
		{runner.Filters{"until": {"x"}}, client.PruneInfo{}, true},
		{runner.Filters{"id": {"a", "b"}}, client.PruneInfo{}, true},
		{runner.Filters{"inuse": {"perhaps"}}, client.PruneInfo{}, true},
		{runner.Filters{"what": {"x"}}, client.PruneInfo{}, true},
	} {
		got, err := pruneInfo(runner.BuildPruneOptions{Filters: c.filters})
		got.KeepDuration = got.KeepDuration.Round(time.Minute)
		if c.bad != errors.Is(err, runner.ErrInvalid) || !c.bad && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%v: %+v, %v", c.filters, got, err)
		}
	}
}

func TestShortID(t *testing.T) {
	for ref, want := range map[string]string{
		"docker.io/library/0123456789ab:latest": "0123456789ab",
		"docker.io/library/0123456789ab:1":      "",
		"docker.io/library/busybox:latest":      "",
		"docker.io/library/abc:latest":          "", // a name, rather
		"localhost:5000/0123456789ab:latest":    "",
	} {
		got, ok := shortID(ref)
		if !ok {
			got = ""
		}
		if got != want {
			t.Errorf("%s means the ID %q, not %q", ref, got, want)
		}
	}
}
