package main

import (
	"net/netip"
	"strings"
	"testing"
)

func TestSlotsShareNoAddress(t *testing.T) {
	seen := map[string]Slot{}
	for slot := Slot(0); slot <= maxSlot; slot++ {
		link, err := netip.ParsePrefix(slot.HostIP() + "/30")
		if err != nil {
			t.Fatal(err)
		}
		if !link.Contains(netip.MustParseAddr(slot.NodeIP())) {
			t.Errorf("slot %d: host %s and node %s are on different networks", slot, slot.HostIP(), slot.NodeIP())
		}
		pods, services := netip.MustParsePrefix(slot.PodCIDR()), netip.MustParsePrefix(slot.ServiceCIDR())
		if !pods.Contains(netip.MustParseAddr(slot.BridgeIP())) || !services.Contains(netip.MustParseAddr(slot.DNSServiceIP())) ||
			!services.Contains(netip.MustParseAddr(slot.APIServiceIP())) {
			t.Errorf("slot %d: an address is outside its range", slot)
		}
		for _, key := range []string{link.Masked().String(), pods.String(), services.String(), slot.Link()} {
			if other, taken := seen[key]; taken {
				t.Errorf("slots %d and %d share %s", other, slot, key)
			}
			seen[key] = slot
		}
		// IFNAMSIZ, with the terminating zero.
		if len(slot.Link()) > 15 {
			t.Errorf("slot %d: link name %s is too long for the kernel", slot, slot.Link())
		}
	}
}

func TestChooseSlot(t *testing.T) {
	two := Slot(2)
	recorded := []Cluster{{Name: "dev", Slot: 0}, {Name: "e2e", Slot: 2}}
	free := func(Slot) bool { return false }
	for name, test := range map[string]struct {
		wanted   *Slot
		occupied func(Slot) bool
		slot     Slot
		err      string
	}{
		"the lowest free one":                  {nil, free, 1, ""},
		"not one that another cache uses":      {nil, func(s Slot) bool { return s == 1 }, 3, ""},
		"a taken one names its owner":          {&two, free, 0, `belongs to cluster "e2e"`},
		"a foreign link is not taken over":     {new(Slot(5)), func(s Slot) bool { return s == 5 }, 0, "in use outside"},
		"a wanted one":                         {new(Slot(7)), free, 7, ""},
		"out of range":                         {new(Slot(maxSlot + 1)), free, 0, "out of range"},
		"all taken says how to get a free one": {nil, func(Slot) bool { return true }, 0, "down --name"},
	} {
		t.Run(name, func(t *testing.T) {
			slot, err := chooseSlot(test.wanted, recorded, test.occupied)
			if test.err == "" && (err != nil || slot != test.slot) {
				t.Errorf("got slot %d and %v, want %d", slot, err, test.slot)
			}
			if test.err != "" && (err == nil || !strings.Contains(err.Error(), test.err)) {
				t.Errorf("got %v, want an error with %q", err, test.err)
			}
		})
	}
}

func TestNamesThatBecomePathsAndNodeNames(t *testing.T) {
	for _, good := range []string{"dev", "e2e-1", "a"} {
		if err := checkName(good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", "..", "a/b", "-a", "A", "a_b", strings.Repeat("a", 31), ".slots"} {
		if checkName(bad) == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}

func TestRecordSurvivesSaving(t *testing.T) {
	c := Cluster{Name: "dev", Slot: 3, Programs: Programs{"kube": "/x"}, cache: Cache(t.TempDir())}
	if err := c.save(); err != nil {
		t.Fatal(err)
	}
	back, err := c.cache.load("dev")
	if err != nil || back.Slot != 3 || back.Programs["kube"] != "/x" || back.Path() != c.Path() {
		t.Errorf("got %+v, %v", back, err)
	}
	all, err := c.cache.all()
	if err != nil || len(all) != 1 || all[0].Name != "dev" {
		t.Errorf("got %+v, %v", all, err)
	}
}
