package runnerconfig

import (
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-registry/berth/internal/settings"
)

func TestFollow(t *testing.T) {
	t.Parallel()
	shop, blog := &Follow{Stack: "localhost:5000/stacks/shop:prod"}, &Follow{Stack: "r.example.com/blog:v1", Name: "b"}
	for text, want := range map[string][]*Follow{
		"follow: localhost:5000/stacks/shop:prod":                                                        {shop},
		"follow: [localhost:5000/stacks/shop:prod]":                                                      {shop},
		"follow: [localhost:5000/stacks/shop:prod, {stack: r.example.com/blog:v1, name: b}]":             {shop, blog},
		"follow: [{stack: localhost:5000/stacks/shop:prod}]\nnode: {labels: {}, interval: 7s, poll: 8s}": {shop},
		"follow:": nil, "follow: []": nil,
	} {
		c, err := schema.Parse("runner.yaml", []byte(text))
		if err != nil || !reflect.DeepEqual(c.Follow, want) {
			t.Errorf("%s: %+v, %v", text, c.Follow, err)
		}
	}
	if shop.Host() != "localhost:5000" || shop.StackName() != "shop" || blog.Host() != "r.example.com" || blog.StackName() != "b" {
		t.Errorf("they are %s of %s and %s of %s", shop.StackName(), shop.Host(), blog.StackName(), blog.Host())
	}
	c, err := schema.Parse("runner.yaml", []byte("node: {labels: {role: web, zone: \"1\"}, interval: 7s, poll: 8s}\n"+
		"registries: {\"localhost:5000\": {username: node, password_file: /p}}\nfollow: localhost:5000/stacks/shop:prod"))
	if err != nil || !reflect.DeepEqual(c.Node, Node{Labels: map[string]string{"role": "web", "zone": "1"}, Interval: 7 * time.Second, Poll: 8 * time.Second}) {
		t.Errorf("the node is %+v, %v", c.Node, err)
	}
	if _, needRestart := Reloadable(Default(), c); !reflect.DeepEqual(needRestart, []string{"registries", "follow", "node.labels", "node.interval", "node.poll"}) {
		t.Errorf("it needs a restart for %q", needRestart)
	}
	for key, want := range map[string]time.Duration{"node.interval": time.Minute, "node.poll": time.Minute} {
		c, err := Load("", nil, settings.Setting{Key: key, Value: "1m"})
		if got := map[string]time.Duration{"node.interval": c.Node.Interval, "node.poll": c.Node.Poll}[key]; err != nil || got != want {
			t.Errorf("%s is %s, %v", key, got, err)
		}
	}
}

func TestFollowErrors(t *testing.T) {
	t.Parallel()
	const tag = "expected a tag such as registry.example.com/stacks/shop:prod"
	for text, want := range map[string]string{
		"follow: stacks/shop:prod":                 "runner.yaml:1: follow: " + tag + `, found "stacks/shop:prod"`,
		"follow: r.example.com/stacks/shop":        tag,
		"follow: r.example.com/Stacks/shop:prod":   tag,
		"follow: r.example.com/shop:prod@sha256:1": tag,
		"follow: https://r.example.com/shop:prod":  tag,
		"follow:\n- r.example.com/shop:prod\n- x":  "runner.yaml:3: follow[2]: " + tag,
		"follow: 7":              "expected a list of stacks to follow, such as registry.example.com/stacks/shop:prod, found the number 7",
		"follow: {stack: x}":     "expected a list of stacks to follow, such as registry.example.com/stacks/shop:prod, found a mapping",
		"follow: [{name: shop}]": "follow: expected stack in each entry",
		"follow: [{stack: r.example.com/shop:prod, name: S}]": "follow[1].name: expected the name of a stack",
		"follow: [{stack: r.example.com/shop:prod, as: x}]":   "unknown key (expected one of stack, name)",
		"follow: [7]":                    "follow[1]: expected a mapping with the keys stack, name, found the number 7",
		"follow: r.example.com/a.b:prod": `expected a name for r.example.com/a.b:prod: "a.b" cannot be that of a stack`,
		"follow: [r.example.com/x/shop:1, r.example.com/y/shop:1]": `expected stacks of different names, found two "shop"`,
		"node: {interval: 2h}":                                  "expected a duration from 1s to 1h",
		"node: {labels: {x: 1}}":                                "node.labels.x: expected a text",
		"node: {labels: {x: " + strings.Repeat("x", 257) + "}}": "expected a text of at most 256 bytes",
		"registries: {other: {username: a, password_file: /p}}\nfollow: r.example.com/shop:prod": "expected report: true with username for other",
	} {
		if _, err := schema.Parse("runner.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
	many := Default()
	many.Node.Labels = map[string]string{}
	for _, r := range strings.Repeat("x", 65) {
		many.Node.Labels[string(r)+string(rune('A'+len(many.Node.Labels)))] = "x"
	}
	if err := schema.Validate(many); err == nil || !strings.Contains(err.Error(), "at most 64 labels") {
		t.Errorf("65 labels: %v", err)
	}
	many.Node.Labels = map[string]string{}
	for i := range 17 {
		many.Node.Labels[strconv.Itoa(i)] = strings.Repeat("x", 250)
	}
	if err := schema.Validate(many); err == nil || !strings.Contains(err.Error(), "at most 4096 bytes") {
		t.Errorf("long labels: %v", err)
	}
}
