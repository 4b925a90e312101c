package htpasswd

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxName  = 255 // bytes, htpasswd's own limit
	hashSize = len("$2y$05$") + 22 + 31
	// The costs that are taken. The greatest takes some seconds to compute.
	minCost, maxCost = 4, 15
)

// parse reads a password file. Its errors start with the number of the line, and
// repeat nothing of a hash.
func parse(data []byte) (map[string]user, error) {
	users := make(map[string]user, bytes.Count(data, []byte("\n")))
	number := 0
	for line := range bytes.Lines(data) {
		number++
		text := string(bytes.Trim(line, " \t\r\n"))
		if text == "" || text[0] == '#' {
			continue
		}
		name, hash, err := parseLine(text)
		if err == nil {
			if _, twice := users[name]; twice {
				err = fmt.Errorf("%q is there twice", name)
			}
		}
		if err != nil {
			return nil, fmt.Errorf("%d: %w", number, err)
		}
		users[name] = user{hash, epoch(hash)}
	}
	return users, nil
}

var (
	errLine = errors.New("want user:hash, as htpasswd -B writes it")
	errName = errors.New("want a user of 1 to 255 bytes of text")
)

func parseLine(text string) (name, hash string, err error) {
	name, hash, ok := strings.Cut(text, ":")
	if !ok {
		return "", "", errLine
	}
	if name == "" || len(name) > maxName || !utf8.ValidString(name) ||
		strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return "", "", errName
	}
	if err := checkHash(hash); err != nil {
		return "", "", fmt.Errorf("%q: %w", name, err)
	}
	return name, hash, nil
}

var (
	errScheme = errors.New("its password is not hashed by bcrypt; make it with htpasswd -B")
	errHash   = errors.New("its bcrypt hash is not whole; make it with htpasswd -B")
)

// checkHash says what is wrong with a hash: $2a$, $2b$ or $2y$, two digits of cost
// and $, 22 characters of salt and 31 of hash.
func checkHash(hash string) error {
	if len(hash) < 4 || hash[:2] != "$2" || strings.IndexByte("aby", hash[2]) < 0 || hash[3] != '$' {
		return errScheme
	}
	if len(hash) != hashSize || hash[6] != '$' || strings.ContainsFunc(hash[7:], notBase64) {
		return errHash
	}
	cost, err := strconv.ParseUint(hash[4:6], 10, 8)
	if err != nil {
		return errHash
	}
	if cost < minCost || cost > maxCost {
		return fmt.Errorf("its bcrypt hash has cost %d, want %d to %d", cost, minCost, maxCost)
	}
	return nil
}

// notBase64 says whether r is not of bcrypt's alphabet.
func notBase64(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '/'
}
