"""Words around a number that speak for or against it being personal. Windows are short: 32 characters before, 8 after.

What speaks against stands right before (`订单号：`) or right after (`元`); it loses only against a word that speaks for
and stands as near (`身份证编号：`). Plain substring tests: regular expressions of that many words cost
five times more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

_NEAR = 10
_BESIDE = 6
_JOINERS = " \t:：#=是为\"'“”(（"
_BEFORE = (
    "订单号 订单编号 单号 流水号 编号 编码 货号 型号 条码 条形码 版本 版本号 批号 批次 "
    "批次号 序列号 工单 工单号 案号 文号 金额 价格 数量 总额 余额 时间戳 isbn sku "
    "upc gtin ean doi pmid ¥ ￥ $ € £ № 订单 快递 运单 页码 邮编 "
    "账期 第 "
)
_AFTER = "元 万 亿 千 块 美元 港元 人民币 % ％ ‰ ml kg km cm mm 克 吨 米 人 次 个 条 件 家 股 字 页 步 年 usd rmb cny "
_NUMBERED = (
    "order invoice tracking ticket case serial part item model version build batch lot transaction "
    "timestamp commit reference ref sku product catalog article parcel shipment"
)
_TAILS = ("", " no", " no.", " number", " num", " id", "_no", "_id", "_number", "-no", "id", "no", " code")
_AGAINST_BEFORE = (*_BEFORE.split(), *(word + tail for word in _NUMBERED.split() for tail in _TAILS))
_BY_LAST: dict[str, tuple[str, ...]] = {}
for _word in _AGAINST_BEFORE:
    _BY_LAST[_word[-1]] = (*_BY_LAST.get(_word[-1], ()), _word)
_BY_FIRST: dict[str, tuple[str, ...]] = {}
for _word in _AFTER.split():
    _BY_FIRST[_word[0]] = (*_BY_FIRST.get(_word[0], ()), _word)


def speaks_for(words: str) -> Callable[[str], bool]:
    """A test whether one of the words (`|` between them, lower case) stands in a text."""
    listed = tuple(words.split("|"))

    @functools.lru_cache(maxsize=4)  # windows that begin at one place have one text before them
    def is_said(text: str) -> bool:
        low = " " + text.lower()
        for word in listed:  # noqa: SIM110  a generator costs more than the words
            if word in low:
                return True
        return False

    return is_said


RESIDENT_ID = speaks_for(
    "身份证|身份號|证件号|身份号码|居民证|公民身份|id card|id number|id no|identity|identification"
)
MOBILE = speaks_for(
    "手机|电话|联系|致电|拨打|来电|号码|热线|咨询|短信|微信|机主|本机|绑定| tel|phone|mobile| cell| call|sms"
)
PHONE = speaks_for(
    "手机|电话|联系|致电|拨打|传真|座机|固话|热线| tel|phone|mobile| cell| call| fax| dial|"
    " text me| text us| ring |contact|"
    "whatsapp|hotline| sms|reach me|reach us|reach him|reach her|reach them"
)
CARD = speaks_for(
    "卡号|银行|账号|帐号|账户|储蓄卡|借记卡|信用卡|工行|建行|农行|中行|招行|交行|邮储|打到|"
    "转账|汇款|收款|开户| card|visa|mastercard|"
    "master card|amex|american express|credit|debit|account|iban|bank|payment"
)
IMEI = speaks_for("imei|串号|设备号|手机串码")
PASSPORT = speaks_for("护照|passport|证件号|签证")
PERMIT = speaks_for("通行证|回乡证|台胞证|台胞|港澳|居住证|往来|入台证|证件号|travel permit|home return")
SSN = speaks_for(" ssn|social security|社会安全|社安")
NINO = speaks_for("national insurance|nino| ni number| ni no")
PLATE = speaks_for("车牌|牌照|号牌|车号|车辆|驾驶|轿车|汽车|停车|违章|车主")
USCC = speaks_for("信用代码|税号|纳税人|社会信用|营业执照|统一代码|识别号")


def speaks_against(before: str, after: str, cue: Callable[[str], bool]) -> bool:
    """Whether the words right beside say that it is something else, and no cue stands as near."""
    behind = after.lstrip(" ").lower()
    if behind and behind.startswith(_BY_FIRST.get(behind[0], ())):
        return not cue(before[-_BESIDE:])
    said = before.rstrip(_JOINERS).lower()
    return bool(said) and said.endswith(_BY_LAST.get(said[-1], ())) and not cue(before[-_NEAR:])
