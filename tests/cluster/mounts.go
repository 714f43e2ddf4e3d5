package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// mountsBelow lists the mount points at or below a path, in the order they were mounted.
func mountsBelow(path string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(table), path), nil
}

func parseMounts(table, path string) []string {
	// Blanks in mount points are written in octal.
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	var found []string
	for _, line := range strings.Split(table, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 5 {
			continue
		}
		point := unescape.Replace(fields[4])
		if point == path || strings.HasPrefix(point, path+"/") {
			found = append(found, point)
		}
	}
	return found
}

// unmountBelow unmounts what is mounted at or below a path, last first. A mount that is busy is detached: the kernel frees it
// with its last user.
func unmountBelow(path string) error {
	// Twice: a mount may hide another of the same point.
	for range 2 {
		points, err := mountsBelow(path)
		if err != nil {
			return err
		}
		for i := len(points) - 1; i >= 0; i-- {
			if err := syscall.Unmount(points[i], 0); err != nil {
				if err := syscall.Unmount(points[i], syscall.MNT_DETACH); err != nil && err != syscall.EINVAL {
					return fmt.Errorf("unmount %s: %w", points[i], err)
				}
			}
		}
	}
	return nil
}
