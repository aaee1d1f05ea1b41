package store

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// snapSink writes one snapshot. Used by one goroutine.
type snapSink struct {
	store *SnapshotStore
	tmp   string
	file  vfs.File
	buf   *bufio.Writer
	crc   uint32
	meta  snapMeta
	done  bool
}

// ID returns the id under which the snapshot can be opened after Close.
func (k *snapSink) ID() string { return k.meta.ID }

// Write appends to the state.
func (k *snapSink) Write(b []byte) (int, error) {
	k.crc = crc32.Update(k.crc, castagnoli, b)
	k.meta.Size += int64(len(b))
	if len(b) < k.buf.Available() {
		return k.buf.Write(b)
	}
	// bufio would hand b itself to the file, and vfs.File.Write may scribble on
	// it: go through the buffer piece by piece.
	written := 0
	for len(b) > 0 {
		n, err := k.buf.Write(b[:min(len(b), k.buf.Available())])
		written += n
		if err == nil && k.buf.Available() == 0 {
			err = k.buf.Flush()
		}
		if err != nil {
			return written, err
		}
		b = b[n:]
	}
	return written, nil
}

// Close makes the snapshot durable and visible, and then removes old ones. A
// full disk leaves no snapshot and is not fatal, a failed fsync is.
func (k *snapSink) Close() error {
	if k.done {
		return nil
	}
	k.done = true
	if err := k.store.s.enter(); err != nil {
		return errors.Join(err, k.file.Close())
	}
	defer k.store.s.leave()
	err := k.publish()
	if err == nil {
		return nil
	}
	err = errors.Join(fmt.Errorf("group %d: writing snapshot %s: %w", k.store.group, k.meta.ID, err), k.store.s.fs.RemoveAll(k.tmp))
	if noSpace(err) {
		return err
	}
	return k.store.s.failIf(err)
}

func (k *snapSink) publish() error {
	p := k.store
	if err := p.s.failed(); err != nil {
		return errors.Join(err, k.file.Close())
	}
	err := k.buf.Flush()
	if err == nil {
		err = k.file.Sync()
	}
	if err = errors.Join(err, k.file.Close()); err != nil {
		return err
	}
	if err := k.writeMeta(); err != nil {
		return err
	}
	p.listing.Lock()
	defer p.listing.Unlock()
	if err := p.s.fs.Rename(k.tmp, p.path(k.meta.ID)); err != nil {
		return err
	}
	if err := syncDir(p.s.fs, p.dir); err != nil {
		return err
	}
	p.sound[k.meta.ID] = true
	if err := p.s.marks.ensure(p.group); err != nil {
		return err
	}
	err = p.s.marks.update(p.group, func(m *mark) {
		if k.meta.Index >= m.snap {
			m.snap, m.snapTerm = k.meta.Index, k.meta.Term
		}
	})
	if err != nil {
		return err
	}
	return p.reap()
}

func (k *snapSink) writeMeta() error {
	k.meta.CRC = k.crc
	body, err := json.Marshal(k.meta)
	if err != nil {
		return err
	}
	b := make([]byte, stableHeader, stableHeader+len(body))
	b[0] = formatVersion
	b = append(b, body...)
	binary.BigEndian.PutUint32(b[1:], stableCRC(k.store.group, []byte(k.meta.ID), formatVersion, body))
	// Also syncs the folder, and with it the name of the state file.
	return writeFileSync(k.store.s.fs, k.tmp, k.store.s.fs.PathJoin(k.tmp, metaFile), b)
}

// Cancel gives the snapshot up.
func (k *snapSink) Cancel() error {
	if k.done {
		return nil
	}
	k.done = true
	return errors.Join(k.file.Close(), k.store.s.fs.RemoveAll(k.tmp))
}
