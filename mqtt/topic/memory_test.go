package topic

import (
	"fmt"
	"strings"
	"testing"
	"unsafe"
)

// TestLevelIsCopied checks that a node which outlives the filter that made it does not
// keep that filter's memory, which may be 64 KiB.
func TestLevelIsCopied(t *testing.T) {
	var tree Tree[int, int]
	long := "a/" + strings.Repeat("x", 60_000)
	tree.Set(long, 1, 1)
	tree.Set("a/b", 1, 1)
	tree.Delete(long, 1)
	level := tree.root.next.kids.few[0].level
	if level != "a" || unsafe.StringData(level) == unsafe.StringData(long) {
		t.Error("the level is a part of the deleted filter")
	}
}

// TestKidsChangeForm checks that a node becomes wide, and narrow again with a gap.
func TestKidsChangeForm(t *testing.T) {
	var k kids[int]
	for i := range 20 {
		k.add(fmt.Sprint(i), &i)
		if wide := k.wide != nil; wide != (k.len() > maxFew) {
			t.Fatalf("%d children: wide %v", k.len(), wide)
		}
	}
	for i := range 20 {
		k.remove(fmt.Sprint(i))
		if wide := k.wide != nil; wide != (k.len() > minWide) {
			t.Fatalf("%d children left: wide %v", k.len(), wide)
		}
		if k.get(fmt.Sprint(i)) != nil || i < 19 && k.get("19") == nil {
			t.Fatalf("after removing %d: wrong children", i)
		}
	}
	k.remove("none")
	if k.len() != 0 {
		t.Fatal("not empty")
	}
}
