package main

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/distribution/reference"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// write makes the archive. What is at out is replaced only by a whole one.
func (b build) write(out string) error {
	dir, err := os.MkdirTemp(filepath.Dir(out), ".image-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	oci := filepath.Join(dir, "oci")
	if err := b.layout(oci); err != nil {
		return err
	}
	archive := filepath.Join(dir, "archive.tar")
	if err := pack(oci, archive); err != nil {
		return err
	}
	return os.Rename(archive, out)
}

// layout writes the image's OCI layout, with manifest.json.
func (b build) layout(dir string) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	var first v1.Image
	for _, bin := range b.binaries {
		img, err := b.image(bin)
		if err != nil {
			return fmt.Errorf("%s: %w", bin.arch, err)
		}
		if first == nil {
			first = img
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: bin.arch}},
		})
	}
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	var tags []string
	for _, tag := range []string{b.version, "latest"} {
		// containerd stores an image under the name that is given here, and looks for
		// the one that a manifest's name stands for: the whole one.
		ref, err := reference.ParseDockerRef(name + ":" + tag)
		if err != nil {
			return fmt.Errorf("version %q is no tag of an image: %w", tag, err)
		}
		tags = append(tags, name+":"+tag)
		err = path.AppendIndex(index, layout.WithAnnotations(map[string]string{
			"io.containerd.image.name":          ref.String(),
			"org.opencontainers.image.ref.name": tag,
		}))
		if err != nil {
			return err
		}
	}
	return dockerManifest(filepath.Join(dir, "manifest.json"), first, tags)
}

// dockerManifest writes what `docker load` looks for.
func dockerManifest(file string, img v1.Image, tags []string) error {
	m, err := img.Manifest()
	if err != nil {
		return err
	}
	blob := func(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
	entry := struct {
		Config           string
		RepoTags, Layers []string
	}{Config: blob(m.Config.Digest), RepoTags: tags}
	for _, l := range m.Layers {
		entry.Layers = append(entry.Layers, blob(l.Digest))
	}
	data, err := json.Marshal([]any{entry})
	if err != nil {
		return err
	}
	return os.WriteFile(file, data, 0o644)
}

// pack makes a tar of the files below dir, by name and without what differs from
// one run to the next.
func pack(dir, out string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	w := tar.NewWriter(f)
	err = filepath.WalkDir(dir, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, file)
		if err != nil {
			return err
		}
		return add(w, file, filepath.ToSlash(name))
	})
	return errors.Join(err, w.Close(), f.Close())
}

func add(w *tar.Writer, file, name string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: info.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
