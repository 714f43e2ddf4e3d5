package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
)

// The few fields of the OCI image layout that are written or read here.

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type index struct {
	SchemaVersion int          `json:"schemaVersion"`
	MediaType     string       `json:"mediaType,omitempty"`
	Manifests     []descriptor `json:"manifests"`
}

const (
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar"
	// Who writes an archive puts the image's name in one of these.
	nameByContainerd = "io.containerd.image.name"
	nameByOCI        = "org.opencontainers.image.ref.name"
)

// archive collects the files of an OCI image layout.
type archive struct {
	files map[string][]byte
}

func (a *archive) blob(mediaType string, content []byte) descriptor {
	sum := sha256.Sum256(content)
	digest := hex.EncodeToString(sum[:])
	a.files["blobs/sha256/"+digest] = content
	return descriptor{MediaType: mediaType, Digest: "sha256:" + digest, Size: int64(len(content))}
}

// writeImage writes an OCI archive of an image that holds one static binary, its entry point. No image builder is needed, and
// the same binary gives the same bytes.
func writeImage(path, name, binary, entry string) error {
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	layer, err := tarball(map[string][]byte{entry: content}, 0o755)
	if err != nil {
		return err
	}
	a := archive{files: map[string][]byte{}}
	layerBlob := a.blob(mediaLayer, layer)
	config, err := json.Marshal(map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/" + entry}},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{layerBlob.Digest}},
	})
	if err != nil {
		return err
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     mediaManifest,
		"config":        a.blob(mediaConfig, config),
		"layers":        []descriptor{layerBlob},
	})
	if err != nil {
		return err
	}
	root := a.blob(mediaManifest, manifest)
	root.Annotations = map[string]string{nameByContainerd: name}
	a.files["index.json"], err = json.Marshal(index{SchemaVersion: 2, Manifests: []descriptor{root}})
	if err != nil {
		return err
	}
	a.files["oci-layout"] = []byte(`{"imageLayoutVersion":"1.0.0"}`)
	whole, err := tarball(a.files, 0o644)
	if err != nil {
		return err
	}
	return writeFile(path, whole, 0o644)
}

// tarball packs files, sorted and without times, so that equal content gives equal bytes.
func tarball(files map[string][]byte, mode int64) ([]byte, error) {
	var buffer bytes.Buffer
	w := tar.NewWriter(&buffer)
	for _, name := range sortedKeys(files) {
		header := &tar.Header{Name: name, Mode: mode, Size: int64(len(files[name])), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(files[name]); err != nil {
			return nil, err
		}
	}
	return buffer.Bytes(), w.Close()
}

// image is one image of an archive.
type image struct{ name, digest string }

// readImages lists the images of an OCI archive. Only headers and the index are read.
func readImages(path string) ([]image, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s holds no index.json: not an OCI archive; write one with `buildah push NAME oci-archive:FILE:NAME`", path)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		if filepath.Clean(header.Name) != "index.json" {
			continue
		}
		var idx index
		if err := json.NewDecoder(reader).Decode(&idx); err != nil {
			return nil, fmt.Errorf("%s: index.json: %w", path, err)
		}
		return idx.images(path)
	}
}

func (idx index) images(path string) ([]image, error) {
	var images []image
	for _, d := range idx.Manifests {
		name := d.Annotations[nameByContainerd]
		if name == "" {
			name = d.Annotations[nameByOCI]
		}
		if name == "" {
			return nil, fmt.Errorf("%s: image %s has no name: say it when writing, `buildah push NAME oci-archive:FILE:NAME`", path, d.Digest)
		}
		images = append(images, image{name: name, digest: d.Digest})
	}
	return images, nil
}
