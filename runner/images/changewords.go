package images

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/moby/moby/api/types/container"

	"github.com/berth-registry/berth/runner"
)

var (
	errOpenQuote = errors.New("unexpected end of statement while looking for matching quote")
	errBrace     = errors.New("missing or invalid ${…}")
	errTooLong   = errors.New("the result is too long")
)

// splitWords splits at spaces that are not quoted or escaped. Quotes and
// backslashes stay for expand.
func splitWords(s string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		ch := s[i]
		switch {
		case ch == '\\' && quote != '\'' && i+1 < len(s):
			word.WriteByte(ch)
			i++
			word.WriteByte(s[i])
			continue
		case quote != 0:
			if ch == quote {
				quote = 0
			}
		case ch == '"' || ch == '\'':
			quote = ch
		case ch == ' ' || ch == '\t':
			if word.Len() > 0 {
				words = append(words, word.String())
				word.Reset()
			}
			continue
		}
		word.WriteByte(ch)
	}
	if quote != 0 {
		return nil, errOpenQuote
	}
	if word.Len() > 0 {
		words = append(words, word.String())
	}
	return words, nil
}

// expand takes quotes and backslashes away, and puts in the values of variables
// of the configuration's environment.
func (c *changer) expand(s string) (string, error) {
	var out strings.Builder
	quote := byte(0)
	for i := 0; i < len(s); i++ {
		if out.Len() > maxChanges {
			return "", errTooLong
		}
		ch := s[i]
		switch {
		case quote == '\'' && ch != '\'':
			out.WriteByte(ch)
		case ch == '\\' && i+1 < len(s):
			i++
			if quote == '"' && !strings.ContainsRune(`"$\`, rune(s[i])) {
				out.WriteByte('\\')
			}
			out.WriteByte(s[i])
		case quote != 0 && ch == quote:
			quote = 0
		case quote == 0 && (ch == '"' || ch == '\''):
			quote = ch
		case ch == '$':
			value, n, err := c.variable(s[i+1:])
			if err != nil {
				return "", err
			}
			out.WriteString(value)
			i += n
		default:
			out.WriteByte(ch)
		}
	}
	if quote != 0 {
		return "", errOpenQuote
	}
	if out.Len() > maxChanges {
		return "", errTooLong
	}
	return out.String(), nil
}

// variable reads what follows a dollar: NAME, {NAME}, {NAME:-word} or
// {NAME:+word}. It returns the value and how much it has read.
func (c *changer) variable(s string) (value string, n int, err error) {
	if !strings.HasPrefix(s, "{") {
		if n = nameLen(s); n == 0 {
			return "$", 0, nil
		}
		return c.getenv(s[:n]), n, nil
	}
	end := strings.IndexByte(s, '}')
	n = nameLen(s[1:])
	if end < 0 || n == 0 {
		return "", 0, errBrace
	}
	name, rest := s[1:1+n], s[1+n:end]
	value = c.getenv(name)
	switch {
	case rest == "":
	case strings.HasPrefix(rest, ":-"):
		if value == "" {
			value = rest[2:]
		}
	case strings.HasPrefix(rest, ":+"):
		if value != "" {
			value = rest[2:]
		}
	default:
		return "", 0, errBrace
	}
	return value, end + 1, nil
}

func nameLen(s string) int {
	for i := range len(s) {
		ch := s[i]
		if ch != '_' && (ch < 'a' || ch > 'z') && (ch < 'A' || ch > 'Z') && (i == 0 || ch < '0' || ch > '9') {
			return i
		}
	}
	return len(s)
}

func (c *changer) getenv(name string) string {
	for _, kv := range c.cfg.Env {
		if value, ok := strings.CutPrefix(kv, name+"="); ok {
			return value
		}
	}
	return ""
}

// healthcheck reads NONE, or options and CMD with a command.
func (c *changer) healthcheck(s string) error {
	h := &container.HealthConfig{}
	for strings.HasPrefix(s, "--") {
		var flag string
		flag, s = cutSpace(s)
		if err := healthFlag(h, flag); err != nil {
			return err
		}
	}
	kind, rest := cutSpace(s)
	switch kind = strings.ToUpper(kind); {
	case kind == "NONE" && rest == "":
		c.cfg.Healthcheck = &container.HealthConfig{Test: []string{"NONE"}}
		return nil
	case kind != "CMD":
		return runner.Errorf(runner.ErrInvalid, "Unknown type %q in HEALTHCHECK (try CMD)", shorten(kind))
	case rest == "":
		return runner.Errorf(runner.ErrInvalid, "Missing command after HEALTHCHECK CMD")
	}
	if list, ok := jsonList(rest); ok {
		h.Test = append([]string{"CMD"}, list...)
	} else {
		h.Test = []string{"CMD-SHELL", rest}
	}
	c.cfg.Healthcheck = h
	return nil
}

func healthFlag(h *container.HealthConfig, flag string) error {
	name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
	if name == "retries" {
		n, err := strconv.ParseInt(value, 10, 32)
		if err != nil || n < 0 {
			return runner.Errorf(runner.ErrInvalid, "--retries cannot be negative (%s)", shorten(value))
		}
		h.Retries = int(n)
		return nil
	}
	into := map[string]*time.Duration{
		"interval": &h.Interval, "timeout": &h.Timeout, "start-period": &h.StartPeriod, "start-interval": &h.StartInterval,
	}[name]
	if into == nil {
		return runner.Errorf(runner.ErrInvalid, "unknown flag: --%s", shorten(name))
	}
	d, err := time.ParseDuration(value)
	if err != nil || d < 0 || d > 0 && d < container.MinimumDuration {
		return runner.Errorf(runner.ErrInvalid, "Interval %q cannot be less than %s", name, container.MinimumDuration)
	}
	*into = d
	return nil
}
