//! Whether the structures in `sys.rs` are those of an installed header: a small C program says where its fields are.

use std::collections::HashMap;
use std::io::Write;
use std::mem::{offset_of, size_of};
use std::process::{Command, Stdio};

use super::sys::*;

/// Fields as C writes them, and their offsets here.
fn fields() -> Vec<(&'static str, &'static str, usize)> {
    let mut all = Vec::new();
    macro_rules! fields {
        ($name:literal $type:ident: $($field:ident)*) => { $(
            all.push(($name, stringify!($field), offset_of!($type, $field)));
        )* };
    }
    fields!("struct fid" Fid: fclass context ops);
    fields!("struct fi_ops" FiOps: size close bind control);
    fields!("struct fid_fabric" FidFabric: fid ops);
    fields!("struct fi_ops_fabric" FiOpsFabric: size domain);
    fields!("struct fid_domain" FidDomain: fid ops mr);
    fields!("struct fi_ops_domain" FiOpsDomain: size av_open cq_open endpoint);
    fields!("struct fi_ops_mr" FiOpsMr: size reg);
    fields!("struct fid_mr" FidMr: fid mem_desc key);
    fields!("struct fid_av" FidAv: fid ops);
    fields!("struct fi_ops_av" FiOpsAv: size insert);
    fields!("struct fid_cq" FidCq: fid ops);
    fields!("struct fi_ops_cq" FiOpsCq: size read readfrom readerr sread sreadfrom signal strerror);
    fields!("struct fid_ep" FidEp: fid ops cm msg rma);
    fields!("struct fi_ops_cm" FiOpsCm: size setname getname);
    fields!("struct fi_ops_msg" FiOpsMsg: size recv recvv recvmsg send sendv sendmsg inject);
    fields!("struct fi_ops_rma" FiOpsRma: size read readv readmsg write writev writemsg inject writedata);
    fields!("struct fi_info" FiInfo: next caps mode addr_format src_addrlen dest_addrlen src_addr dest_addr handle
        tx_attr rx_attr ep_attr domain_attr fabric_attr);
    fields!("struct fi_tx_attr" FiTxAttr: caps mode op_flags msg_order comp_order inject_size size);
    fields!("struct fi_rx_attr" FiRxAttr: caps mode op_flags msg_order comp_order total_buffered_recv size);
    fields!("struct fi_ep_attr" FiEpAttr: protocol protocol_version max_msg_size msg_prefix_size);
    fields!("struct fi_domain_attr" FiDomainAttr: domain name threading control_progress data_progress resource_mgmt
        av_type mr_mode mr_key_size cq_data_size);
    fields!("struct fi_fabric_attr" FiFabricAttr: fabric name prov_name prov_version api_version);
    fields!("struct fi_av_attr" FiAvAttr: rx_ctx_bits count ep_per_node name map_addr flags);
    fields!("struct fi_cq_attr" FiCqAttr: size flags format wait_obj signaling_vector wait_cond wait_set);
    fields!("struct fi_cq_data_entry" FiCqDataEntry: op_context flags len buf data);
    fields!("struct fi_cq_err_entry" FiCqErrEntry: op_context flags len buf data tag olen err prov_errno err_data
        err_data_size);
    fields!("struct fi_rma_iov" FiRmaIov: addr len key);
    fields!("struct fi_msg_rma" FiMsgRma: msg_iov desc iov_count addr rma_iov rma_iov_count context data);
    fields!("struct fi_context2" FiContext2: internal);
    // Called `type` in C.
    all.push(("struct fi_ep_attr", "type", offset_of!(FiEpAttr, kind)));
    all.push(("struct fi_av_attr", "type", offset_of!(FiAvAttr, kind)));
    all
}

/// Structures that both sides must take to be of the same length, for there are arrays of them.
fn same() -> Vec<(&'static str, usize)> {
    vec![
        ("struct fid", size_of::<Fid>()),
        ("struct fi_cq_data_entry", size_of::<FiCqDataEntry>()),
        ("struct fi_rma_iov", size_of::<FiRmaIov>()),
        ("struct fi_msg_rma", size_of::<FiMsgRma>()),
        ("struct fi_context2", size_of::<FiContext2>()),
    ]
}

/// Structures that the library fills or reads, for which it must find at least as much room as it thinks.
fn room() -> Vec<(&'static str, usize)> {
    vec![
        ("struct fi_av_attr", size_of::<FiAvAttr>()),
        ("struct fi_cq_attr", size_of::<FiCqAttr>()),
        ("struct fi_cq_err_entry", size_of::<FiCqErrEntry>()),
    ]
}

fn constants() -> Vec<(&'static str, u64)> {
    let mut all = Vec::new();
    macro_rules! constants {
        ($($name:ident)*) => { $( all.push((stringify!($name), $name as u64)); )* };
    }
    constants!(FI_MSG FI_RMA FI_WRITE FI_RECV FI_SEND FI_TRANSMIT FI_REMOTE_WRITE FI_REMOTE_CQ_DATA FI_COMPLETION);
    constants!(FI_DELIVERY_COMPLETE FI_CONTEXT FI_CONTEXT2);
    constants!(FI_MR_LOCAL FI_MR_VIRT_ADDR FI_MR_ALLOCATED FI_MR_PROV_KEY FI_MR_ENDPOINT);
    constants!(FI_EP_RDM FI_THREAD_DOMAIN FI_RM_ENABLED FI_AV_TABLE FI_CQ_FORMAT_DATA FI_WAIT_NONE FI_ENABLE);
    constants!(FI_ADDR_UNSPEC FI_EAGAIN FI_EINVAL FI_ENOSYS FI_EMSGSIZE FI_EOPNOTSUPP FI_ECANCELED FI_EAVAIL);
    all
}

#[test]
fn structures_are_those_of_the_header() {
    let mut program = String::from("#include <stdio.h>\n#include <stddef.h>\n");
    for header in ["fabric", "fi_cm", "fi_domain", "fi_endpoint", "fi_eq", "fi_errno", "fi_rma"] {
        program += &format!("#include <rdma/{header}.h>\n");
    }
    program += "int main(void) {\n";
    let mut print = |key: &str, value: &str| {
        program += &format!("  printf(\"%s|%llu\\n\", \"{key}\", (unsigned long long)({value}));\n");
    };
    for (name, field, _) in fields() {
        print(&format!("{name}.{field}"), &format!("offsetof({name}, {field})"));
    }
    for (name, _) in same().iter().chain(&room()) {
        print(name, &format!("sizeof({name})"));
    }
    for (name, _) in constants() {
        print(name, name);
    }
    program += "  return 0;\n}\n";

    let binary = std::env::temp_dir().join(format!("swarmloom-ofi-layout-{}", std::process::id()));
    let compiler = std::env::var("CC").unwrap_or_else(|_| "cc".into());
    let mut compile = Command::new(compiler);
    compile.args(["-x", "c", "-", "-o"]).arg(&binary);
    let Ok(mut compiling) = compile.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn() else {
        println!("skipped: there is no C compiler");
        return;
    };
    let mut stdin = compiling.stdin.take().unwrap();
    // A compiler that fails early need not read it all.
    let _ = stdin.write_all(program.as_bytes());
    drop(stdin);
    let compiled = compiling.wait_with_output().unwrap();
    if !compiled.status.success() {
        let why = String::from_utf8_lossy(&compiled.stderr);
        assert!(why.contains("rdma/fabric.h"), "it does not compile: {why}");
        println!("skipped: the header of libfabric is not installed");
        return;
    }
    let ran = Command::new(&binary).output().unwrap();
    let _ = std::fs::remove_file(&binary);
    let said = String::from_utf8(ran.stdout).unwrap();
    let said: HashMap<&str, u64> = said
        .lines()
        .filter_map(|line| line.split_once('|'))
        .map(|(key, value)| (key, value.parse().unwrap()))
        .collect();

    for (name, field, offset) in fields() {
        assert_eq!(said[format!("{name}.{field}").as_str()], offset as u64, "{name}.{field}");
    }
    for (name, size) in same() {
        assert_eq!(said[name], size as u64, "{name}");
    }
    for (name, size) in room() {
        assert!(said[name] <= size as u64, "{name} has {} bytes", said[name]);
    }
    for (name, value) in constants() {
        assert_eq!(said[name], value, "{name}");
    }
    println!("{} values compared", said.len());
}
