package auth

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/xdg-go/scram"
)

// LineError is a line of a file that cannot be used.
type LineError struct {
	File string
	Line int // from 1
	Err  error
}

// Error implements error.
func (e *LineError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap returns the cause.
func (e *LineError) Unwrap() error { return e.Err }

// user is one line of the password file. It does not change, but for proved.
type user struct {
	line string // what follows the name, to tell whether it is still the same
	hash hash
	// proved is the digest of the password that fitted last, under a key of this
	// process: a fleet that reconnects need not compute all hashes again. nil: none yet.
	proved atomic.Pointer[[sha256.Size]byte]
}

// passwords is the content of a password file. It does not change.
type passwords struct {
	users  map[string]*user
	list   []*user // all, and those with SCRAM: whom to ask in the place of unknown users
	scrams []scramHash
	secret [sha256.Size]byte // of the content, so that all nodes with the file have it
}

// parsePasswords reads lines of the form name:hash. All bad lines are told.
func parsePasswords(file string, data []byte) (*passwords, error) {
	p := &passwords{users: map[string]*user{}, secret: sha256.Sum256(append([]byte("flotilla decoys\x00"), data...))}
	var errs []error
	for n, line := range lines(data) {
		if ignored(line) {
			continue
		}
		if err := p.add(line); err != nil {
			errs = append(errs, &LineError{file, n + 1, err})
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p, nil
}

func (p *passwords) add(line string) error {
	name, text, ok := strings.Cut(line, ":")
	if !ok {
		return errors.New("a line is NAME:HASH")
	}
	if err := checkName(name); err != nil {
		return err
	}
	if p.users[name] != nil {
		return fmt.Errorf("user %q has a line already", name)
	}
	h, err := parseHash(text)
	if err != nil {
		return fmt.Errorf("user %q: %w", name, err)
	}
	u := &user{line: text, hash: h}
	p.users[name] = u
	p.list = append(p.list, u)
	if s, ok := h.(scramHash); ok {
		p.scrams = append(p.scrams, s)
	}
	return nil
}

// lines cuts a file into lines, with or without carriage returns.
func lines(data []byte) []string {
	var out []string
	for l := range bytes.Lines(data) {
		out = append(out, strings.TrimRight(string(l), "\r\n"))
	}
	return out
}

// ignored: an empty line or a comment.
func ignored(line string) bool {
	line = strings.TrimSpace(line)
	return line == "" || line[0] == '#'
}

// checkName: what a password file can hold and CONNECT can carry.
func checkName(name string) error {
	switch {
	case name == "":
		return errors.New("the user name is empty")
	case len(name) > 65535 || !utf8.ValidString(name):
		return errors.New("a user name is UTF-8 and at most 65535 bytes long")
	case strings.ContainsAny(name, ":\r\n\x00"):
		return errors.New("a user name has no ':', no line break and no U+0000")
	case ignored(name):
		return errors.New("a user name begins with no '#' and is not blank")
	}
	return nil
}

// pick chooses one of n for a name: always the same one while the file is the same.
func (p *passwords) pick(name, purpose string, n int) (int, []byte) {
	mac := hmac.New(sha256.New, p.secret[:])
	mac.Write([]byte(purpose + "\x00" + name))
	sum := mac.Sum(nil)
	return int(binary.BigEndian.Uint64(sum) % uint64(n)), sum
}

// find returns the hash to check for a user name. A user that is not known (nil) gets
// that of another, whose result does not count: so it takes as long.
func (p *passwords) find(name string) (*user, hash) {
	u := p.users[name]
	switch {
	case u != nil:
		return u, u.hash
	case len(p.list) == 0:
		return nil, argon2id{memory: 19 << 10, time: 2, threads: 1, salt: make([]byte, 16), sum: make([]byte, 32)}
	}
	i, _ := p.pick(name, "hash", len(p.list))
	return nil, p.list[i].hash
}

// scramOf returns what SCRAM needs of a user. One that is not known, or has no SCRAM
// line, gets a salt that looks like another's and a key that nobody has.
func (p *passwords) scramOf(name string) (*user, scram.StoredCredentials) {
	if u := p.users[name]; u != nil {
		if h, ok := u.hash.(scramHash); ok {
			return u, h.StoredCredentials
		}
	}
	i, salt := p.pick(name, "scram", len(p.scrams))
	like := p.scrams[i]
	for len(salt) < len(like.Salt) {
		salt = append(salt, salt...)
	}
	return nil, scram.StoredCredentials{
		KeyFactors: scram.KeyFactors{Salt: string(salt[:len(like.Salt)]), Iters: like.Iters},
		StoredKey:  random(sha256.Size), ServerKey: random(sha256.Size),
	}
}

// HashPassword makes the line of a user without SCRAM.
func HashPassword(name string, password []byte) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	return name + ":" + newArgon2id(password).String(), nil
}

// HashScram makes the line of a user that may use SCRAM-SHA-256, with a number of
// iterations from 4096 on, which clients compute at each log-in.
func HashScram(name string, password []byte, iterations int) (string, error) {
	if err := checkName(name); err != nil {
		return "", err
	}
	h, err := newScram(name, string(password), iterations)
	if err != nil {
		return "", err
	}
	return name + ":" + h.String(), nil
}

// ErrNoUser: the password file has no line for the user.
var ErrNoUser = errors.New("no such user")

// SetLine returns the content of a password file with the line of a user put in, in its
// old place if there is one; line "" takes it away. Everything else stays as it is.
func SetLine(data []byte, name, line string) ([]byte, error) {
	var out bytes.Buffer
	found := false
	put := func() {
		if line != "" && !found {
			out.WriteString(line + "\n")
		}
		found = true
	}
	for l := range bytes.Lines(data) {
		if n, _, ok := strings.Cut(string(l), ":"); ok && n == name && !ignored(string(l)) {
			put()
			continue
		}
		out.Write(l)
		if l[len(l)-1] != '\n' {
			out.WriteByte('\n')
		}
	}
	switch {
	case line != "":
		put()
	case !found:
		return nil, fmt.Errorf("%q: %w", name, ErrNoUser)
	}
	return out.Bytes(), nil
}

// CheckPasswords says what is wrong with a password file.
func CheckPasswords(file string, data []byte) error {
	_, err := parsePasswords(file, data)
	return err
}

func readPasswords(file string) (*passwords, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return parsePasswords(file, data)
}
