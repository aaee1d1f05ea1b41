package discovery

import (
	"bufio"
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
)

var (
	errNoKeys  = errors.New("no key in it: want one a line, in base64, the primary first")
	errKeySize = errors.New("a key must have 16, 24 or 32 bytes")
)

// ReadKeys reads a file of gossip keys: one a line, in base64, the primary first.
// Empty lines and what follows '#' say nothing.
func ReadKeys(file string) (keys [][]byte, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := bytes.Cut(lines.Bytes(), []byte("#"))
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		key, err := base64.StdEncoding.AppendDecode(nil, text)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		if err := memberlist.ValidateKey(key); err != nil {
			return nil, fmt.Errorf("%s:%d: %w, not %d", file, n, errKeySize, len(key))
		}
		keys = append(keys, key)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: %w", file, errNoKeys)
	}
	return keys, nil
}

// keyring is memberlist's, and the same keys as ciphers.
type keyring struct {
	ring    *memberlist.Keyring
	ciphers atomic.Pointer[[]cipher.AEAD]

	mu   sync.Mutex // one set at a time
	keys [][]byte   // mu
}

func newKeyring(keys [][]byte) (*keyring, error) {
	ring, err := memberlist.NewKeyring(keys, keys[0])
	if err != nil {
		return nil, err
	}
	k := &keyring{ring: ring}
	_, err = k.set(keys)
	return k, err
}

// set replaces the keys; the first is the primary. Whoever reads meanwhile knows the
// old keys, the new ones, or both.
func (k *keyring) set(keys [][]byte) (changed bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if slices.EqualFunc(keys, k.keys, bytes.Equal) {
		return false, nil
	}
	if err := k.replace(keys); err != nil {
		return false, err
	}
	k.keys = keys
	return true, nil
}

func (k *keyring) replace(keys [][]byte) error {
	ciphers := make([]cipher.AEAD, len(keys))
	for i, key := range keys {
		block, err := aes.NewCipher(key)
		if err != nil {
			return err
		}
		if ciphers[i], err = cipher.NewGCM(block); err != nil {
			return err
		}
	}
	k.ciphers.Store(&ciphers)
	for _, key := range keys {
		if err := k.ring.AddKey(key); err != nil {
			return err
		}
	}
	if err := k.ring.UseKey(keys[0]); err != nil {
		return err
	}
	for _, old := range slices.Clone(k.ring.GetKeys()) {
		if !slices.ContainsFunc(keys, func(key []byte) bool { return bytes.Equal(key, old) }) {
			if err := k.ring.RemoveKey(old); err != nil {
				return err
			}
		}
	}
	return nil
}

// opens reports whether one of the keys fits what memberlist has sealed: a version
// byte, a nonce and the ciphertext, with the data that goes with it.
func (k *keyring) opens(sealed, data []byte) bool {
	const version, nonce = 1, 12
	if len(sealed) < version+nonce {
		return false
	}
	for _, c := range *k.ciphers.Load() {
		if _, err := c.Open(nil, sealed[version:version+nonce], sealed[version+nonce:], data); err == nil {
			return true
		}
	}
	return false
}

// encrypt gives memberlist the keys, and a transport that counts what none fits.
func (g *Gossip) encrypt(c *memberlist.Config) (err error) {
	if g.keys, err = newKeyring(g.opt.Keys); err != nil {
		return fmt.Errorf("discovery: gossip keys: %w", err)
	}
	c.Keyring = g.keys.ring
	tries := 1
	if c.BindPort == 0 {
		tries = 10 // a port that is free for TCP may not be for UDP
	}
	var nt *memberlist.NetTransport
	for range tries {
		nt, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{c.BindAddr}, BindPort: c.BindPort, Logger: c.Logger,
		})
		if err == nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("discovery: gossip on %s: %w", g.opt.Bind, err)
	}
	c.BindPort, c.AdvertisePort = nt.GetAutoBindPort(), nt.GetAutoBindPort()
	c.Transport = newGuard(nt, g.keys, g.refuse)
	return nil
}

// tellAgain is how soon refused gossip is logged again: a stranger tries often.
const tellAgain = 30 * time.Second

// refuse notes a packet or stream that no key of ours fits.
func (g *Gossip) refuse(from net.Addr) {
	g.mu.Lock()
	g.refused++
	tell := time.Since(g.told) >= tellAgain
	if tell {
		g.told = time.Now()
	}
	g.mu.Unlock()
	if tell {
		g.log.Error("gossip refused: it is not encrypted with a key of ours", "check", "gossip_key", "remote", from)
	}
}

// Refused counts packets and streams that no key of ours fits.
func (g *Gossip) Refused() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.refused
}

var errPlain = errors.New("discovery: gossip began without a key; it takes one only at the next start")

// SetKeys replaces the keys; the first is what we send with from now on. changed tells
// whether they are others than before.
func (g *Gossip) SetKeys(keys [][]byte) (changed bool, err error) {
	if g.keys == nil {
		return false, errPlain
	}
	return g.keys.set(keys)
}
