// Image writes the container image as an archive, without a container engine.
// The archive is an OCI image layout with an index of all architectures, which
// `ctr images import` and newer `docker load` read, and also has the
// manifest.json of `docker save` for the first architecture, which every
// `docker load` reads. deploy/Dockerfile describes the same image; a test
// compares them.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

// run writes the archive that the arguments ask for.
func run(args []string) error {
	fs := flag.NewFlagSet("image", flag.ContinueOnError)
	out := fs.String("out", "", "archive to write")
	version := fs.String("version", "dev", "version of the binaries, and tag of the image")
	revision := fs.String("revision", "", "commit the binaries were built from")
	created := fs.Int64("created", 0, "time of that commit, in Unix seconds: the same sources make the same archive")
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "Usage: image -out FILE [flags] ARCH=BINARY …")
		fs.PrintDefaults()
	}
	if err := fs.Parse(args); err != nil {
		return err
	}
	if *out == "" || fs.NArg() == 0 {
		return fmt.Errorf("want -out FILE and at least one ARCH=BINARY, such as amd64=bin/flotilla")
	}
	b := build{version: *version, revision: *revision, created: time.Unix(*created, 0).UTC()}
	for _, arg := range fs.Args() {
		arch, file, ok := strings.Cut(arg, "=")
		if !ok {
			return fmt.Errorf("%q: want ARCH=BINARY", arg)
		}
		b.binaries = append(b.binaries, binary{arch, file})
	}
	return b.write(*out)
}
