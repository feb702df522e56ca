package target

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestMagicPacket(t *testing.T) {
	machine, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	machine.SetReadDeadline(time.Now().Add(limit))
	mac, _ := net.ParseMAC("a0:b1:c2:d3:e4:f5")
	if err := (&Waker{MAC: mac, Addr: machine.LocalAddr().String()}).Wake(t.Context()); err != nil {
		t.Fatal(err)
	}
	packet := make([]byte, 1000)
	n, _, err := machine.ReadFrom(packet)
	want, _ := hex.DecodeString("ffffffffffff" + strings.Repeat("a0b1c2d3e4f5", 16))
	if err != nil || !bytes.Equal(packet[:n], want) {
		t.Errorf("got %x, %v; want %x", packet[:n], err, want)
	}
}

func TestAPacketThatCannotBeSent(t *testing.T) {
	if err := (&Waker{MAC: make([]byte, 6), Addr: "127.0.0.1:none"}).Wake(t.Context()); err == nil {
		t.Error("got no error")
	}
}

func TestBroadcastOf(t *testing.T) {
	for network, want := range map[string]string{
		"192.168.178.20/24": "192.168.178.255",
		"10.1.2.3/8":        "10.255.255.255",
		"172.20.10.2/28":    "172.20.10.15",
	} {
		ip, n, _ := net.ParseCIDR(network)
		n.IP = ip // an interface's own address, not the network's
		if got := broadcastOf(n).String(); got != want || !n.IP.Equal(ip) {
			t.Errorf("%s: got %s; want %s", network, got, want)
		}
	}
}

func TestWhatAnErrorSaysOfTheMachine(t *testing.T) {
	dial := func(err error) error {
		return fmt.Errorf("%w: %w", ErrUnreachable, &net.OpError{Op: "dial", Net: "tcp", Err: err})
	}
	for _, test := range []struct {
		err                  error
		refused, unconnected bool
	}{
		{dial(os.NewSyscallError("connect", syscall.ECONNREFUSED)), true, true},
		{dial(os.NewSyscallError("connectex", syscall.Errno(10061))), true, true},
		{dial(os.NewSyscallError("connect", syscall.EHOSTUNREACH)), false, true},
		{dial(os.ErrDeadlineExceeded), false, true},
		{dial(&net.DNSError{Err: "no such host", IsNotFound: true}), false, true},
		{&net.OpError{Op: "read", Net: "tcp", Err: syscall.ECONNRESET}, false, false},
		{errors.New("answered nonsense"), false, false},
	} {
		if got := IsRefused(test.err); got != test.refused {
			t.Errorf("%v: refused %v; want %v", test.err, got, test.refused)
		}
		if got := IsUnconnected(test.err); got != test.unconnected {
			t.Errorf("%v: unconnected %v; want %v", test.err, got, test.unconnected)
		}
	}
}
