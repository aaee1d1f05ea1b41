package auth

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/xdg-go/scram"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
)

// The bounds of what a line may ask of the machine at each log-in. argon2's memory is
// taken by as many log-ins at once as Options.Hashes allows.
const (
	maxArgon2Memory = 256 << 10 // KiB
	maxArgon2Time   = 64
	maxBcryptCost   = 16
	maxIterations   = 10_000_000
	minScramRounds  = 4096 // RFC 7677: clients refuse less
	maxHashLine     = 4096 // bytes
)

// hash is what a line of the password file knows of a password.
type hash interface {
	// verify says whether a password fits. It takes long, and as long for a wrong one.
	verify(password []byte) bool
}

var errHash = errors.New("the hash is none of $argon2id$, $2b$ (bcrypt), $7$ and $6$ (Mosquitto), SCRAM-SHA-256$")

// parseHash reads the part of a line behind the user name.
func parseHash(s string) (hash, error) {
	switch {
	case len(s) > maxHashLine:
		return nil, fmt.Errorf("the hash is longer than %d bytes", maxHashLine)
	case strings.HasPrefix(s, "$argon2id$"):
		return parseArgon2id(s)
	case strings.HasPrefix(s, "$2a$"), strings.HasPrefix(s, "$2b$"), strings.HasPrefix(s, "$2y$"):
		return parseBcrypt(s)
	case strings.HasPrefix(s, "$7$"):
		return parsePBKDF2(s)
	case strings.HasPrefix(s, "$6$"):
		return parseSHA512(s)
	case strings.HasPrefix(s, "SCRAM-SHA-256$"):
		return parseScram(s)
	}
	return nil, errHash
}

// argon2id is a hash of RFC 9106, in the form $argon2id$v=19$m=19456,t=2,p=1$salt$sum.
type argon2id struct {
	memory, time uint32 // KiB; passes
	threads      uint8
	salt, sum    []byte
}

// newArgon2id hashes with the cost that OWASP recommends: 19 MiB, two passes.
func newArgon2id(password []byte) argon2id {
	h := argon2id{memory: 19 << 10, time: 2, threads: 1, salt: random(16)}
	h.sum = argon2.IDKey(password, h.salt, h.time, h.memory, h.threads, 32)
	return h
}

func (h argon2id) String() string {
	b := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, h.memory, h.time, h.threads, b.EncodeToString(h.salt), b.EncodeToString(h.sum))
}

func (h argon2id) verify(password []byte) bool {
	sum := argon2.IDKey(password, h.salt, h.time, h.memory, h.threads, uint32(len(h.sum)))
	return subtle.ConstantTimeCompare(sum, h.sum) == 1
}

func parseArgon2id(s string) (hash, error) {
	f := strings.Split(s, "$") // "", argon2id, v=, m=,t=,p=, salt, sum
	if len(f) != 6 || f[2] != "v=19" {
		return nil, errors.New("argon2id hashes look like $argon2id$v=19$m=19456,t=2,p=1$salt$hash")
	}
	var n [3]uint64
	params := strings.Split(f[3], ",")
	if len(params) != len(n) {
		return nil, errors.New("argon2id needs m=, t= and p=")
	}
	for i, name := range []string{"m=", "t=", "p="} {
		v, ok := strings.CutPrefix(params[i], name)
		var err error
		if n[i], err = strconv.ParseUint(v, 10, 32); err != nil || !ok {
			return nil, errors.New("argon2id needs m=, t= and p=, in this order, with numbers")
		}
	}
	switch m, t, p := n[0], n[1], n[2]; {
	case p < 1 || p > 64, t < 1 || t > maxArgon2Time, m < 8*p || m > maxArgon2Memory:
		return nil, fmt.Errorf("argon2id takes m= up to %d, t= up to %d and p= up to 64", maxArgon2Memory, maxArgon2Time)
	}
	h := argon2id{memory: uint32(n[0]), time: uint32(n[1]), threads: uint8(n[2])}
	var err error
	h.salt, h.sum, err = saltAndSum(base64.RawStdEncoding, f[4], f[5])
	return h, err
}

// saltAndSum decodes the two and checks that they are as long as they must be to be of
// any use.
func saltAndSum(b *base64.Encoding, salt, sum string) (_, _ []byte, err error) {
	rawSalt, err1 := b.Strict().DecodeString(salt)
	rawSum, err2 := b.Strict().DecodeString(sum)
	switch {
	case err1 != nil || err2 != nil:
		return nil, nil, errors.New("salt and hash must be base64")
	case len(rawSalt) < 8 || len(rawSum) < 16:
		return nil, nil, errors.New("salt or hash is too short")
	}
	return rawSalt, rawSum, nil
}

// bcryptHash is a hash in the form $2b$12$….
type bcryptHash []byte

func parseBcrypt(s string) (hash, error) {
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil {
		return nil, fmt.Errorf("bcrypt: %w", err)
	}
	if cost > maxBcryptCost {
		return nil, fmt.Errorf("bcrypt takes a cost up to %d", maxBcryptCost)
	}
	return bcryptHash(s), nil
}

func (h bcryptHash) verify(password []byte) bool {
	return bcrypt.CompareHashAndPassword(h, password) == nil
}

// pbkdf2SHA512 is Mosquitto's $7$iterations$salt$hash.
type pbkdf2SHA512 struct {
	rounds    int
	salt, sum []byte
}

func parsePBKDF2(s string) (hash, error) {
	f := strings.Split(s, "$")
	if len(f) != 5 {
		return nil, errors.New("PBKDF2 hashes look like $7$iterations$salt$hash")
	}
	rounds, err := strconv.Atoi(f[2])
	if err != nil || rounds < 1 || rounds > maxIterations {
		return nil, fmt.Errorf("PBKDF2 takes 1 to %d iterations", maxIterations)
	}
	h := pbkdf2SHA512{rounds: rounds}
	h.salt, h.sum, err = saltAndSum(base64.StdEncoding, f[3], f[4])
	return h, err
}

func (h pbkdf2SHA512) verify(password []byte) bool {
	sum, err := pbkdf2.Key(sha512.New, string(password), h.salt, h.rounds, len(h.sum))
	return err == nil && subtle.ConstantTimeCompare(sum, h.sum) == 1
}

// saltedSHA512 is Mosquitto's older $6$salt$hash.
type saltedSHA512 struct{ salt, sum []byte }

func parseSHA512(s string) (hash, error) {
	f := strings.Split(s, "$")
	if len(f) != 4 {
		return nil, errors.New("SHA-512 hashes look like $6$salt$hash")
	}
	salt, sum, err := saltAndSum(base64.StdEncoding, f[2], f[3])
	if err == nil && len(sum) != sha512.Size {
		err = errors.New("a SHA-512 hash has 64 bytes")
	}
	return saltedSHA512{salt, sum}, err
}

func (h saltedSHA512) verify(password []byte) bool {
	sum := sha512.Sum512(append(append([]byte(nil), password...), h.salt...))
	return subtle.ConstantTimeCompare(sum[:], h.sum) == 1
}

// scramHash is what SCRAM-SHA-256 needs of a password, in the form in which PostgreSQL
// keeps it: SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey. It can check a plain
// password too.
type scramHash struct{ scram.StoredCredentials }

func parseScram(s string) (hash, error) {
	f := strings.FieldsFunc(s, func(r rune) bool { return r == '$' || r == ':' })
	if len(f) != 5 || strings.Count(s, "$") != 2 || strings.Count(s, ":") != 2 {
		return nil, errors.New("SCRAM lines look like SCRAM-SHA-256$iterations:salt$StoredKey:ServerKey")
	}
	rounds, err := strconv.Atoi(f[1])
	if err != nil || rounds < minScramRounds || rounds > maxIterations {
		return nil, fmt.Errorf("SCRAM takes %d to %d iterations", minScramRounds, maxIterations)
	}
	var h scramHash
	salt, stored, err := saltAndSum(base64.StdEncoding, f[2], f[3])
	if err != nil {
		return nil, err
	}
	if h.ServerKey, err = base64.StdEncoding.Strict().DecodeString(f[4]); err != nil || len(h.ServerKey) != sha256.Size || len(stored) != sha256.Size {
		return nil, errors.New("StoredKey and ServerKey must be 32 bytes in base64")
	}
	h.Salt, h.Iters, h.StoredKey = string(salt), rounds, stored
	return h, nil
}

// newScram derives what SCRAM needs; the password is prepared as RFC 5802 asks.
func newScram(user, password string, rounds int) (scramHash, error) {
	if rounds < minScramRounds || rounds > maxIterations {
		return scramHash{}, fmt.Errorf("SCRAM takes %d to %d iterations", minScramRounds, maxIterations)
	}
	c, err := scram.SHA256.NewClient(user, password, "")
	if err != nil {
		return scramHash{}, fmt.Errorf("SCRAM cannot express the user name or the password: %w", err)
	}
	creds, err := c.GetStoredCredentialsWithError(scram.KeyFactors{Salt: string(random(16)), Iters: rounds})
	return scramHash{creds}, err
}

func (h scramHash) String() string {
	b := base64.StdEncoding
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", h.Iters, b.EncodeToString([]byte(h.Salt)), b.EncodeToString(h.StoredKey), b.EncodeToString(h.ServerKey))
}

func (h scramHash) verify(password []byte) bool {
	// The user name plays no part in the keys.
	c, err := scram.SHA256.NewClient("", string(password), "")
	if err != nil { // a password that nobody can have; the time must be spent all the same
		if c, err = scram.SHA256.NewClientUnprepped("", string(password), ""); err != nil {
			return false
		}
	}
	got, err := c.GetStoredCredentialsWithError(h.KeyFactors)
	return err == nil && hmac.Equal(got.StoredKey, h.StoredKey)
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return b
}
