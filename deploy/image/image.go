package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"os"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// name of the image, as in the manifests.
const name = "flotilla"

// user that runs the broker: no name, since there is no /etc/passwd.
const user = 65532

// dataDir is where a container keeps its data.
const dataDir = "data"

// build is one image for several architectures.
type build struct {
	version, revision string
	created           time.Time
	binaries          []binary
}

type binary struct{ arch, file string }

// image makes the image of one architecture.
func (b build) image(bin binary) (v1.Image, error) {
	data, err := os.ReadFile(bin.file)
	if err != nil {
		return nil, err
	}
	files, err := b.files(data)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(files)), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	if img, err = mutate.ConfigFile(img, b.config(bin.arch)); err != nil {
		return nil, err
	}
	return mutate.Append(img, mutate.Addendum{
		Layer: layer, MediaType: types.OCILayer,
		History: v1.History{Created: v1.Time{Time: b.created}, CreatedBy: "deploy/image", Comment: "the static binary and its data folder"},
	})
}

func (b build) config(arch string) *v1.ConfigFile {
	return &v1.ConfigFile{
		Architecture: arch, OS: "linux", Created: v1.Time{Time: b.created},
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{
			Entrypoint:   []string{"/flotilla"},
			Cmd:          []string{"serve"},
			Env:          []string{"FLOTILLA_DATA=/" + dataDir},
			WorkingDir:   "/" + dataDir,
			User:         fmt.Sprintf("%d:%d", user, user),
			ExposedPorts: map[string]struct{}{"1883/tcp": {}, "8883/tcp": {}, "7400/tcp": {}, "7401/tcp": {}, "7401/udp": {}, "7402/tcp": {}},
			Labels:       b.labels(),
		},
	}
}

func (b build) labels() map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "Flotilla",
		"org.opencontainers.image.description": "A clustered MQTT broker on Raft",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     b.version,
		"org.opencontainers.image.revision":    b.revision,
		"org.opencontainers.image.created":     b.created.Format(time.RFC3339),
	}
}

// files is the only layer: the binary, and a data folder that its user may
// write to.
func (b build) files(program []byte) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, h := range []*tar.Header{
		{Typeflag: tar.TypeDir, Name: dataDir + "/", Mode: 0o700, Uid: user, Gid: user},
		{Typeflag: tar.TypeReg, Name: "flotilla", Mode: 0o755, Size: int64(len(program))},
	} {
		h.ModTime = b.created
		if err := w.WriteHeader(h); err != nil {
			return nil, err
		}
	}
	if _, err := w.Write(program); err != nil {
		return nil, err
	}
	return buf.Bytes(), w.Close()
}
