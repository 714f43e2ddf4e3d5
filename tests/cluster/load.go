package main

import (
	"fmt"
	"path/filepath"
	"strings"
)

// load imports OCI archives into the cluster's containerd and prints the images' names. An image that is there with the same
// digest is not imported again.
func load(c Cluster, files []string) error {
	if len(files) == 0 {
		return fmt.Errorf("load what? name one or more OCI archives")
	}
	return c.importImages(files...)
}

func (c Cluster) ctr(args ...string) (string, error) {
	argv := []string{c.Programs.binary("containerd", "ctr"), "--address", c.containerdSocket(), "--namespace", "k8s.io"}
	return run(append(argv, args...)...)
}

func (c Cluster) importImages(files ...string) error {
	listing, err := c.ctr("images", "list")
	if err != nil {
		return fmt.Errorf("%w; is the cluster up? see `status --name %s`", err, c.Name)
	}
	present := parseImages(listing)
	for _, file := range files {
		file, err := filepath.Abs(file)
		if err != nil {
			return err
		}
		images, err := readImages(file)
		if err != nil {
			return err
		}
		fresh := false
		for _, image := range images {
			fresh = fresh || present[image.name] != image.digest
		}
		if fresh {
			if _, err := c.ctr("images", "import", file); err != nil {
				return err
			}
		}
		for _, image := range images {
			state := "already there"
			if fresh {
				state = "loaded"
			}
			say("image %s %s", image.name, state)
		}
	}
	return nil
}

// parseImages reads name and digest from the table that `ctr images list` prints.
func parseImages(listing string) map[string]string {
	present := map[string]string{}
	for _, line := range strings.Split(listing, "\n") {
		fields := strings.Fields(line)
		if len(fields) > 2 && strings.HasPrefix(fields[2], "sha256:") {
			present[fields[0]] = fields[2]
		}
	}
	return present
}
