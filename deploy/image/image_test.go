package main

import (
	"archive/tar"
	"bytes"
	"context"
	_ "crypto/sha256" // containerd's importer has it from its program
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	crname "github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// makeArchive writes an archive of two binaries that are none.
func makeArchive(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	args := []string{"-out", filepath.Join(dir, "image.tar"), "-version", "v1.2.3-4-gabc", "-revision", "abc", "-created", "1700000000"}
	for _, arch := range []string{"amd64", "arm64"} {
		file := filepath.Join(dir, arch)
		if err := os.WriteFile(file, []byte("a program for "+arch), 0o600); err != nil {
			t.Fatal(err)
		}
		args = append(args, arch+"="+file)
	}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, ".image-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	return filepath.Join(dir, "image.tar")
}

// TestContainerd imports the archive as `ctr images import` does.
func TestContainerd(t *testing.T) {
	store, err := local.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(makeArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ctx := context.Background()
	root, err := archive.ImportIndex(ctx, store, f)
	if err != nil {
		t.Fatal(err)
	}
	var index ocispec.Index
	read(t, store, root, &index)
	var names []string
	for _, m := range index.Manifests {
		names = append(names, m.Annotations[images.AnnotationImageName])
	}
	// The whole names: those that kubelet asks for.
	if len(names) != 2 || !strings.HasSuffix(names[0], "/flotilla:v1.2.3-4-gabc") || !strings.HasSuffix(names[1], "/flotilla:latest") {
		t.Errorf("images %q", names)
	}
	var platforms ocispec.Index
	read(t, store, index.Manifests[0], &platforms)
	var archs []string
	for _, m := range platforms.Manifests {
		archs = append(archs, m.Platform.OS+"/"+m.Platform.Architecture)
		var manifest ocispec.Manifest
		read(t, store, m, &manifest)
		var config ocispec.Image
		read(t, store, manifest.Config, &config)
		if config.Architecture != m.Platform.Architecture || config.Config.Labels[ocispec.AnnotationVersion] != "v1.2.3-4-gabc" ||
			config.Config.Labels[ocispec.AnnotationRevision] != "abc" {
			t.Errorf("config %+v", config)
		}
	}
	if !slices.Equal(archs, []string{"linux/amd64", "linux/arm64"}) {
		t.Errorf("architectures %q", archs)
	}
}

func read(t *testing.T, store content.Store, desc ocispec.Descriptor, into any) {
	t.Helper()
	data, err := content.ReadBlob(context.Background(), store, desc)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// TestDocker reads the archive by the manifest.json of `docker save`.
func TestDocker(t *testing.T) {
	file := makeArchive(t)
	for _, tag := range []string{"flotilla:v1.2.3-4-gabc", "flotilla:latest"} {
		ref, err := crname.NewTag(tag)
		if err != nil {
			t.Fatal(err)
		}
		img, err := tarball.ImageFromPath(file, &ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := validate.Image(img); err != nil {
			t.Errorf("%s: %v", tag, err)
		}
		checkFiles(t, img)
	}
}

// checkFiles: the binary that everybody may run and nobody change, and a data
// folder of the image's user.
func checkFiles(t *testing.T, img v1.Image) {
	t.Helper()
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v", len(layers), err)
	}
	files, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer files.Close()
	seen := map[string]tar.Header{}
	for r := tar.NewReader(files); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seen[h.Name] = *h
		if h.Name == "flotilla" {
			if data, err := io.ReadAll(r); err != nil || string(data) != "a program for amd64" {
				t.Errorf("the binary is %q, %v", data, err)
			}
		}
	}
	bin, data := seen["flotilla"], seen["data/"]
	if len(seen) != 2 || bin.Mode != 0o755 || bin.Uid != 0 || data.Typeflag != tar.TypeDir || data.Uid != user || data.Gid != user || data.Mode != 0o700 {
		t.Errorf("files %+v", seen)
	}
}

func TestSameSourcesSameArchive(t *testing.T) {
	a, err := os.ReadFile(makeArchive(t))
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(makeArchive(t))
	if err != nil || !bytes.Equal(a, b) {
		t.Errorf("two archives of the same differ (%v)", err)
	}
}

func TestBadArguments(t *testing.T) {
	dir := t.TempDir()
	bin := filepath.Join(dir, "bin")
	if err := os.WriteFile(bin, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(dir, "image.tar")
	for _, args := range [][]string{
		{}, {"-out", out}, {"-out", out, bin}, {"amd64=" + bin}, {"-out", out, "amd64=" + bin + ".none"},
		{"-out", out, "-version", "no tag", "amd64=" + bin},
	} {
		if err := run(args); err == nil {
			t.Errorf("%q made an image", args)
		}
	}
	if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
		t.Error("something was written all the same")
	}
}

// TestDockerfile: deploy/Dockerfile says the same about the image as the code.
func TestDockerfile(t *testing.T) {
	data, err := os.ReadFile("../Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	stages := strings.Split(strings.ReplaceAll(string(data), "\\\n", ""), "\nFROM ")
	if len(stages) != 3 || !strings.HasPrefix(stages[2], "scratch\n") {
		t.Fatalf("want a stage that builds and one from scratch, found %d", len(stages)-1)
	}
	gomod, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := strings.Fields(string(gomod[bytes.Index(gomod, []byte("\ngo ")):]))[1]
	if !strings.HasPrefix(stages[1], "--platform=$BUILDPLATFORM golang:"+version+" ") {
		t.Errorf("the Dockerfile builds with another Go than %s of go.mod", version)
	}
	got := v1.Config{Labels: map[string]string{}, ExposedPorts: map[string]struct{}{}}
	for line := range strings.Lines(stages[2]) {
		what, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch what {
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &got.Entrypoint)
		case "CMD":
			err = json.Unmarshal([]byte(rest), &got.Cmd)
		case "ENV":
			got.Env = append(got.Env, rest)
		case "WORKDIR":
			got.WorkingDir = rest
		case "USER":
			got.User = rest
		case "EXPOSE":
			for _, port := range strings.Fields(rest) {
				got.ExposedPorts[port] = struct{}{}
			}
		case "LABEL":
			for _, label := range strings.Split(strings.TrimSuffix(rest, `"`), `" `) {
				key, value, _ := strings.Cut(strings.TrimSpace(label), `="`)
				got.Labels[key] = value
			}
		}
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
	}
	want := build{version: "$VERSION", revision: "$REVISION"}.config("amd64").Config
	want.Labels[ocispec.AnnotationCreated] = "$CREATED"
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the Dockerfile has\n%+v, the archive\n%+v", got, want)
	}
}
