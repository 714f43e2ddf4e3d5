package main

import (
	"os"
	"os/exec"
)

// scratchSize is how much a cluster may write. The file is sparse: it takes what was written.
const scratchSize = 64 << 30

// scratch is the file whose blocks hold the state directory.
func (c Cluster) scratch() string { return c.Path() + ".img" }

// mountScratch gives the state directory a file system of its own, on which fsync costs nothing. All in it is thrown away, but
// etcd, containerd, the kubelet and the stores of tests wait for the disk after each write: on a busy one that is most of
// their time. Memory would do too, but what a pod writes there is counted as its own. A machine without loop devices keeps
// the state on its disk.
func (c Cluster) mountScratch() error {
	if err := os.MkdirAll(c.Path(), 0o755); err != nil {
		return err
	}
	if mounts, err := mountsBelow(c.Path()); err != nil || len(mounts) > 0 {
		return err
	}
	file, err := os.Create(c.scratch())
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(scratchSize); err != nil {
		return err
	}
	for _, argv := range [][]string{
		{"mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", c.scratch()},
		{"mount", "-o", "loop,nobarrier,noatime", c.scratch(), c.Path()},
	} {
		if _, err := exec.LookPath(lookup(argv[0])); err != nil {
			err = os.Remove(c.scratch())
			say("no %s: the state of cluster %s is on the disk, which is slower", argv[0], c.Name)
			return err
		}
		if _, err := run(argv...); err != nil {
			say("the state of cluster %s is on the disk, which is slower: %v", c.Name, err)
			return os.Remove(c.scratch())
		}
	}
	return nil
}
