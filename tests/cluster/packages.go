package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// packages maps what must be there to the Debian package that brings it.
var packages = []struct{ file, name string }{
	// The cluster.
	{"runc", "runc"},
	{"ip", "iproute2"},
	{"nsenter", "util-linux"},
	{"nft", "nftables"},
	{"iptables", "iptables"}, // the portmap CNI plugin and the kubelet call it
	{"conntrack", "conntrack"},
	// Task and test images.
	{"buildah", "buildah"},
	{"busybox", "busybox-static"},
	{"mmdebstrap", "mmdebstrap"},
	{"jq", "jq"},
	{"strip", "binutils"},
}

// cniDirs are where distributions put the CNI plugins; Debian's first.
var cniDirs = []string{"/usr/lib/cni", "/opt/cni/bin"}

func cniDir() (string, bool) {
	for _, dir := range cniDirs {
		if exists(filepath.Join(dir, "bridge")) && exists(filepath.Join(dir, "portmap")) {
			return dir, true
		}
	}
	return "", false
}

func missingPackages() []string {
	var missing []string
	for _, p := range packages {
		if lookup(p.file) == p.file {
			missing = append(missing, p.name)
		}
	}
	if _, found := cniDir(); !found {
		missing = append(missing, "containernetworking-plugins")
	}
	return missing
}

func installPackages() error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	install := append([]string{"apt-get", "install", "-y", "--no-install-recommends"}, missing...)
	if os.Geteuid() != 0 || lookup("apt-get") == "apt-get" {
		return fmt.Errorf("programs are missing; install them, on Debian with:\n  %s", strings.Join(install, " "))
	}
	// Somebody else may be installing.
	wait := []string{"-o", "DPkg::Lock::Timeout=600"}
	for _, argv := range [][]string{append([]string{"apt-get", "update"}, wait...), append(install, wait...)} {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		if err := watch(strings.Join(argv, " "), cmd); err != nil {
			return err
		}
	}
	if still := missingPackages(); len(still) > 0 {
		return fmt.Errorf("installed, yet still not found: %s; is %s on PATH?", strings.Join(still, " "), strings.Join(systemPath, ":"))
	}
	return nil
}
