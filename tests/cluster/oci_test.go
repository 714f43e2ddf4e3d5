package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestImageIsReadBackAndReproducible(t *testing.T) {
	dir := t.TempDir()
	binary := filepath.Join(dir, "pause")
	if err := os.WriteFile(binary, []byte("not really a binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	var archives [2][]byte
	for i := range archives {
		path := filepath.Join(dir, "image.tar")
		if err := writeImage(path, "localhost/pause:1", binary, "program"); err != nil {
			t.Fatal(err)
		}
		images, err := readImages(path)
		if err != nil || len(images) != 1 || images[0].name != "localhost/pause:1" || !strings.HasPrefix(images[0].digest, "sha256:") {
			t.Fatalf("got %v, %v", images, err)
		}
		if archives[i], err = os.ReadFile(path); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the same binary gives two archives")
	}
}

func TestOtherTarballsAreNamed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "docker.tar")
	content, err := tarball(map[string][]byte{"manifest.json": []byte("[]")}, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readImages(path); err == nil || !strings.Contains(err.Error(), "oci-archive:") {
		t.Errorf("got %v, want a hint how to write an OCI archive", err)
	}
}

func TestParseImages(t *testing.T) {
	const listing = "REF TYPE DIGEST SIZE PLATFORMS LABELS\n" +
		"localhost/a:1 application/vnd.oci.image.manifest.v1+json sha256:aa 1.2 MiB linux/amd64 -\n"
	got := parseImages(listing)
	if len(got) != 1 || got["localhost/a:1"] != "sha256:aa" {
		t.Errorf("got %v", got)
	}
}

func TestParseMountsTakesWholePathsOnly(t *testing.T) {
	const table = `1 0 8:1 / / rw - ext4 /dev/a rw
2 1 8:1 / /state/dev rw - ext4 /dev/a rw
3 1 8:1 / /state/dev2/x rw - ext4 /dev/a rw
4 1 8:1 / /state/dev/a\040b rw - tmpfs none rw
`
	got := parseMounts(table, "/state/dev")
	if len(got) != 2 || got[0] != "/state/dev" || got[1] != "/state/dev/a b" {
		t.Errorf("got %q", got)
	}
}
