package images

import (
	"encoding/json"
	"maps"
	"path"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/sys/signal"

	"github.com/berth-registry/berth/runner"
)

// maxChanges bounds what instructions make of variables that refer to each other.
const maxChanges = 1 << 20

// ApplyChanges does to a configuration what instructions of a Dockerfile say. It
// knows those that docker allows here: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK,
// LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR. What cfg shares with
// others is not changed.
func ApplyChanges(cfg *container.Config, changes []string) error {
	c := changer{cfg: cfg}
	for _, line := range instructions(changes) {
		name, rest := cutSpace(line)
		if err := c.apply(strings.ToUpper(name), rest); err != nil {
			return err
		}
	}
	return nil
}

// changer applies instructions one by one.
type changer struct {
	cfg    *container.Config
	cmdSet bool // by one of them
}

func (c *changer) apply(name, rest string) error {
	do := map[string]func(string) error{
		"CMD": c.cmd, "ENTRYPOINT": c.entrypoint, "ENV": c.env, "EXPOSE": c.expose, "HEALTHCHECK": c.healthcheck,
		"LABEL": c.label, "ONBUILD": c.onbuild, "STOPSIGNAL": c.stopSignal, "USER": c.user, "VOLUME": c.volume, "WORKDIR": c.workDir,
	}[name]
	if do == nil {
		return runner.Errorf(runner.ErrInvalid, "%s is not a valid change command", shorten(name))
	}
	if rest == "" {
		return runner.Errorf(runner.ErrInvalid, "%s requires at least one argument", name)
	}
	return do(rest)
}

// instructions splits a Dockerfile into its instructions: without comments, and
// with lines joined that end in a backslash.
func instructions(changes []string) []string {
	var list []string
	var joined strings.Builder
	for line := range strings.SplitSeq(strings.Join(changes, "\n"), "\n") {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		if cut, ok := strings.CutSuffix(line, `\`); ok {
			joined.WriteString(cut)
			continue
		}
		joined.WriteString(line)
		list = append(list, strings.TrimSpace(joined.String()))
		joined.Reset()
	}
	if rest := strings.TrimSpace(joined.String()); rest != "" {
		list = append(list, rest)
	}
	return list
}

func cutSpace(s string) (first, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.TrimSpace(s[i:])
}

// command reads the form of a command that is a JSON list, or else what is given
// to a shell.
func (c *changer) command(s string) []string {
	if list, ok := jsonList(s); ok {
		return list
	}
	shell := c.cfg.Shell
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return append(append([]string{}, shell...), s)
}

func jsonList(s string) ([]string, bool) {
	var list []string
	if !strings.HasPrefix(s, "[") || json.Unmarshal([]byte(s), &list) != nil {
		return nil, false
	}
	return list, true
}

func (c *changer) cmd(s string) error {
	c.cfg.Cmd, c.cmdSet = c.command(s), true
	return nil
}

func (c *changer) entrypoint(s string) error {
	c.cfg.Entrypoint = c.command(s)
	if !c.cmdSet {
		c.cfg.Cmd = nil // it was meant for the old one
	}
	return nil
}

func (c *changer) env(s string) error {
	list, err := c.pairs("ENV", s)
	if err != nil {
		return err
	}
	env := append([]string{}, c.cfg.Env...)
next:
	for _, kv := range list {
		for i, old := range env {
			if name, _, _ := strings.Cut(old, "="); name == kv[0] {
				env[i] = kv[0] + "=" + kv[1]
				continue next
			}
		}
		env = append(env, kv[0]+"="+kv[1])
	}
	c.cfg.Env = env
	return nil
}

func (c *changer) label(s string) error {
	list, err := c.pairs("LABEL", s)
	if err != nil {
		return err
	}
	labels := make(map[string]string, len(c.cfg.Labels)+len(list))
	maps.Copy(labels, c.cfg.Labels)
	for _, kv := range list {
		labels[kv[0]] = kv[1]
	}
	c.cfg.Labels = labels
	return nil
}

// pairs reads KEY=VALUE …, or KEY VALUE, the old form.
func (c *changer) pairs(name, s string) ([][2]string, error) {
	raw, err := splitWords(s)
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%s: %w", name, err)
	}
	if !strings.Contains(raw[0], "=") {
		key, value := cutSpace(s)
		if value == "" {
			return nil, runner.Errorf(runner.ErrInvalid, "%s must have two arguments", name)
		}
		raw = []string{key + "=" + value}
	}
	var list [][2]string
	for _, word := range raw {
		key, value, ok := strings.Cut(word, "=")
		if !ok {
			return nil, runner.Errorf(runner.ErrInvalid, "Syntax error - can't find = in %q. Must be of the form: name=value", shorten(word))
		}
		var kv [2]string
		for i, part := range []string{key, value} {
			if kv[i], err = c.expand(part); err != nil {
				return nil, runner.Errorf(runner.ErrInvalid, "%s: %w", name, err)
			}
		}
		if kv[0] == "" {
			return nil, runner.Errorf(runner.ErrInvalid, "%s names can not be blank", name)
		}
		list = append(list, kv)
	}
	return list, nil
}

// words reads words separated by space.
func (c *changer) words(name, s string) ([]string, error) {
	raw, err := splitWords(s)
	for i := range raw {
		if err == nil {
			raw[i], err = c.expand(raw[i])
		}
	}
	if err != nil {
		return nil, runner.Errorf(runner.ErrInvalid, "%s: %w", name, err)
	}
	return raw, nil
}

func (c *changer) expose(s string) error {
	words, err := c.words("EXPOSE", s)
	if err != nil {
		return err
	}
	ports := make(network.PortSet, len(c.cfg.ExposedPorts)+len(words))
	for p := range c.cfg.ExposedPorts {
		ports[p] = struct{}{}
	}
	for _, w := range words {
		r, err := network.ParsePortRange(w)
		if err != nil {
			return runner.Errorf(runner.ErrInvalid, "EXPOSE: %w", err)
		}
		switch r.Proto() {
		case network.TCP, network.UDP, network.SCTP:
		default:
			return runner.Errorf(runner.ErrInvalid, "invalid proto: %s", shorten(string(r.Proto())))
		}
		for n := int(r.Start()); n <= int(r.End()); n++ {
			if p, ok := network.PortFrom(uint16(n), r.Proto()); ok {
				ports[p] = struct{}{}
			}
		}
	}
	c.cfg.ExposedPorts = ports
	return nil
}

func (c *changer) onbuild(s string) error {
	switch name, _ := cutSpace(s); strings.ToUpper(name) {
	case "ONBUILD":
		return runner.Errorf(runner.ErrInvalid, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")
	case "MAINTAINER", "FROM":
		return runner.Errorf(runner.ErrInvalid, "%s isn't allowed as an ONBUILD trigger", strings.ToUpper(name))
	}
	c.cfg.OnBuild = append(append([]string{}, c.cfg.OnBuild...), s)
	return nil
}

// single reads all that is there as one word.
func (c *changer) single(name, s string) (string, error) {
	v, err := c.expand(s)
	if err != nil {
		return "", runner.Errorf(runner.ErrInvalid, "%s: %w", name, err)
	}
	if v == "" {
		return "", runner.Errorf(runner.ErrInvalid, "%s cannot be empty", name)
	}
	return v, nil
}

func (c *changer) stopSignal(s string) error {
	v, err := c.single("STOPSIGNAL", s)
	if err != nil {
		return err
	}
	if _, err := signal.ParseSignal(v); err != nil {
		return runner.Errorf(runner.ErrInvalid, "%w", err)
	}
	c.cfg.StopSignal = v
	return nil
}

func (c *changer) user(s string) (err error) {
	c.cfg.User, err = c.single("USER", s)
	return err
}

func (c *changer) workDir(s string) error {
	v, err := c.single("WORKDIR", s)
	if err != nil {
		return err
	}
	if !path.IsAbs(v) {
		v = path.Join("/", c.cfg.WorkingDir, v)
	}
	c.cfg.WorkingDir = path.Clean(v)
	return nil
}

func (c *changer) volume(s string) error {
	list, ok := jsonList(s)
	if !ok {
		var err error
		if list, err = c.words("VOLUME", s); err != nil {
			return err
		}
	}
	volumes := make(map[string]struct{}, len(c.cfg.Volumes)+len(list))
	for v := range c.cfg.Volumes {
		volumes[v] = struct{}{}
	}
	for _, v := range list {
		if v = strings.TrimSpace(v); v == "" {
			return runner.Errorf(runner.ErrInvalid, "VOLUME specified can not be an empty string")
		}
		volumes[v] = struct{}{}
	}
	c.cfg.Volumes = volumes
	return nil
}
