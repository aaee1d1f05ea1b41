package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Identity is whose disk this is.
type Identity struct {
	ClusterID       string `json:"clusterId"`       // empty until the node belongs to a cluster
	NodeName        string `json:"nodeName"`        // empty until SetIdentity
	DiskIncarnation uint64 `json:"diskIncarnation"` // drawn when the disk is first used, never 0
}

// nodeFile is the content of the file "node": magic(8) version(1) crc32c(4) JSON.
type nodeFile struct {
	Identity
	Meta map[string][]byte `json:"meta,omitempty"`
}

var nodeMagic = []byte("FLOTNODE")

const nodeHeader = 13

func encodeNode(n nodeFile) ([]byte, error) {
	body, err := json.Marshal(n)
	if err != nil {
		return nil, err
	}
	b := make([]byte, nodeHeader, nodeHeader+len(body))
	copy(b, nodeMagic)
	b[8] = formatVersion
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[9:], nodeCRC(b))
	return b, nil
}

func nodeCRC(b []byte) uint32 {
	return crc32.Update(keyCRC(0, 0, b[8]), castagnoli, b[nodeHeader:])
}

// readNode returns a *DamagedError for a file that fails its check.
func readNode(fs vfs.FS, path string) (nodeFile, error) {
	var n nodeFile
	b, err := readFile(fs, path)
	if err != nil {
		return n, err
	}
	damaged := func(err error) error { return &DamagedError{Path: path, What: "node file", Err: err} }
	if len(b) < nodeHeader || !bytes.Equal(b[:8], nodeMagic) {
		return n, damaged(errors.New("it does not start as a node file"))
	}
	if binary.BigEndian.Uint32(b[9:]) != nodeCRC(b) {
		return n, damaged(errors.New("checksum does not match"))
	}
	if b[8] != formatVersion {
		return n, &FormatError{Path: path, Version: int(b[8])}
	}
	if err := json.Unmarshal(b[nodeHeader:], &n); err != nil {
		return n, damaged(err)
	}
	return n, nil
}

// writeNode replaces the node file durably.
func (s *Store) writeNode(n nodeFile) error {
	b, err := encodeNode(n)
	if err != nil {
		return err
	}
	if err := writeFileSync(s.fs, s.dir, s.path("node"), b); err != nil {
		return fmt.Errorf("writing %s: %w", s.path("node"), err)
	}
	return nil
}

// Identity returns whose disk this is.
func (s *Store) Identity() Identity {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.node.Identity
}

// SetIdentity records to which cluster and node the folder belongs, durably. An
// empty argument is "not known yet" and leaves what is stored. A folder that
// already belongs to another cluster or node gives an *IdentityError. Names are
// at most 255 bytes long.
func (s *Store) SetIdentity(clusterID, nodeName string) error {
	if len(clusterID) > maxName || len(nodeName) > maxName {
		return fmt.Errorf("cluster id and node name have at most %d bytes", maxName)
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.nodeLock.Lock()
	defer s.nodeLock.Unlock()
	n := s.nodeCopy()
	for _, f := range []struct {
		what string
		have *string
		want string
	}{{"cluster id", &n.ClusterID, clusterID}, {"node name", &n.NodeName, nodeName}} {
		if f.want == "" {
			continue
		}
		if *f.have != "" && *f.have != f.want {
			return &IdentityError{Dir: s.dir, Field: f.what, Have: *f.have, Want: f.want}
		}
		*f.have = f.want
	}
	if n.Identity == s.Identity() {
		return nil
	}
	if err := s.replaceNode(n); err != nil {
		return err
	}
	// The copy in the marks file survives the loss of the node file.
	return s.failIf(s.marks.updateHeader(func(h *markHeader) { h.clusterID, h.nodeName = n.ClusterID, n.NodeName }))
}

// SetMeta stores a small value of the node under key, durably; nil removes it.
// Meant for a handful of values: each call rewrites them all.
func (s *Store) SetMeta(key string, value []byte) error {
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	s.nodeLock.Lock()
	defer s.nodeLock.Unlock()
	n := s.nodeCopy()
	if value == nil {
		delete(n.Meta, key)
	} else {
		n.Meta[key] = slices.Clone(value)
	}
	return s.replaceNode(n)
}

// Meta returns the value stored under key and whether there is one.
func (s *Store) Meta(key string) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.node.Meta[key]
	return slices.Clone(v), ok
}

func (s *Store) nodeCopy() nodeFile {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.node
	n.Meta = maps.Clone(n.Meta)
	if n.Meta == nil {
		n.Meta = map[string][]byte{}
	}
	return n
}

// replaceNode writes n and then shows it. A full disk is not fatal: the old
// file is still in place and the caller has promised nothing yet.
func (s *Store) replaceNode(n nodeFile) error {
	if err := s.writeNode(n); errors.Is(err, syscall.ENOSPC) {
		return err
	} else if err != nil {
		return s.failIf(err)
	}
	s.mu.Lock()
	s.node = n
	s.mu.Unlock()
	return nil
}
